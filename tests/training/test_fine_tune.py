"""Fine-tuning tiny models: the loss falls, a kill costs nothing, and the result is a quantized model like any other."""

from dataclasses import replace

import pytest
import torch

from quantbench.methods.activation.dynamic import DynamicActivation
from quantbench.methods.rounding import GPTQ, RTN
from quantbench.methods.training import LSQ, QAT, Scales
from quantbench.methods.transform import AWQ
from quantbench.models.solve import apply_result
from quantbench.models.walk import quantize
from quantbench.training import checkpoint as checkpoints
from quantbench.training.fine_tune import Student, fine_tune
from tests.models import tiny
from tests.models.test_walk import CPU, load, variant

FAST = {"steps": 12, "batch_size": 4, "lr": 2e-3}
TRAININGS = {
    "qat": QAT(**FAST),
    "qat-dequantized": QAT(**FAST | {"lr": 2e-2}, start="dequantized", temperature=2.0),
    "lsq": LSQ(**FAST, init="walk", step_lr=1e-3, zero_lr=1e-3),
    "scales": Scales(**FAST, kl=1.0, ce=0.0),
}


def trained(model, structure, ids, training, *, rounding=None, statistics="propagate", transform=None, path=None):
    """What the walk gave, and what training made of it."""
    point = variant(rounding or RTN(), bits=2, statistics=statistics, transform=transform)
    point = replace(point, training=training)
    (before,) = quantize(model, structure, [point], ids, device=CPU)
    return before, fine_tune(model, training, before, ids, device=CPU, checkpoint=path)


@torch.no_grad()
def divergence(model, result, ids):
    """KL from full precision's predictions."""
    before = model(ids).logits
    undo = apply_result(model, result)
    after = model(ids).logits
    undo()
    return float(QAT().loss(after, before, ids))


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("statistics", ["propagate", "fp"])
def test_training_brings_predictions_closer_to_full_precision(training, statistics):
    model, structure, ids = load("llama")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, after = trained(model, structure, ids, training, rounding=GPTQ(), statistics=statistics)
    assert divergence(model, after, ids) < 0.9 * divergence(model, before, ids)
    assert len(after.losses) == FAST["steps"]
    assert after.losses[-1] < after.losses[0]
    assert after.weights.keys() == before.weights.keys() == set(structure.linears)
    assert not after.latent
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_inputs_stay_quantized_while_training():
    model, structure, ids = load("llama")
    point = replace(variant(RTN(), bits=2), training=TRAININGS["qat"], activation=DynamicActivation(bits=4))
    (before,) = quantize(model, structure, [point], ids, device=CPU)
    after = fine_tune(model, point.training, before, ids, device=CPU, checkpoint=None)
    assert after.inputs == before.inputs
    assert divergence(model, after, ids) < 0.9 * divergence(model, before, ids)
    assert before.inputs
    without = fine_tune(model, point.training, replace(before, inputs={}), ids, device=CPU, checkpoint=None)
    assert without.losses[0] < after.losses[0]


@pytest.mark.parametrize("name", ["opt", "gemma2", "qwen3-moe", "phi3"])
def test_other_architectures_train_too(name):
    model, structure, ids = load(name)
    before, after = trained(model, structure, ids, TRAININGS["qat"])
    assert divergence(model, after, ids) < divergence(model, before, ids)


def test_what_was_trained_is_what_is_applied():
    """The loss of the last student equals that of the stored codes in the model, to the last bit."""
    model, structure, ids = load("llama")
    before, after = trained(model, structure, ids, TRAININGS["lsq"], transform=AWQ(n_grid=4), statistics="fp")
    with torch.no_grad():
        weights = {name: QAT().tunable(w, w.dequantize()) for name, w in after.weights.items()}
        logits = Student(model, before, weights, CPU).logits(ids)
        undo = apply_result(model, after)
        assert torch.equal(model(ids).logits, logits)
        undo()


def test_scales_leave_codes_and_zero_points():
    model, structure, ids = load("llama")
    before, after = trained(model, structure, ids, TRAININGS["scales"])
    for name, weight in after.weights.items():
        assert torch.equal(weight.codes, before.weights[name].codes)
        assert torch.equal(weight.zero_point, before.weights[name].zero_point)
    assert any(not torch.equal(w.scale, before.weights[n].scale) for n, w in after.weights.items())


class Killed(Exception):
    """Stands for a signal that cannot be caught."""


@pytest.mark.parametrize("training", [TRAININGS["lsq"], TRAININGS["scales"]], ids=["lsq", "scales"])
def test_a_killed_training_goes_on_to_the_same_bits(training, tmp_path, monkeypatch):
    model, structure, ids = load("llama")
    _, whole = trained(model, structure, ids, training)
    monkeypatch.setattr(checkpoints.Checkpoint, "due", True)
    save, path = checkpoints.Checkpoint.save, tmp_path / "run.pt"

    def save_then_die(self, state):
        save(self, state)
        if len(state["losses"]) == 7:
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_then_die)
    with pytest.raises(Killed):
        trained(model, structure, ids, training, path=path)
    assert path.exists()
    steps = []
    monkeypatch.setattr(checkpoints.Checkpoint, "save", lambda self, state: steps.append(len(state["losses"])))
    _, resumed = trained(model, structure, ids, training, path=path)
    assert steps == list(range(8, FAST["steps"] + 1))
    assert resumed.losses == whole.losses
    for name, weight in resumed.weights.items():
        assert torch.equal(weight.codes, whole.weights[name].codes)
        assert torch.equal(weight.scale, whole.weights[name].scale)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "foreign", "of another training"])
def test_a_checkpoint_of_something_else_is_not_taken_up(content, tmp_path, caplog):
    model, structure, ids = load("llama")
    path = tmp_path / "run.pt"
    if content is None:
        checkpoints.Checkpoint(path, "another").save({"losses": [1.0]})
    else:
        path.write_bytes(content)
    _, after = trained(model, structure, ids, replace(TRAININGS["qat"], steps=1), path=path)
    assert len(after.losses) == 1
    assert "start" in caplog.text
    assert str(path) in caplog.text


def test_order_of_windows_is_the_seeds_and_covers_each_pass():
    schedule = QAT(batch_size=3, epochs=2, seed=5).schedule(7)
    assert schedule.steps == 4
    batches = [schedule.batch(step, 7) for step in range(4)]
    assert len(set(batches[0] + batches[1])) == 6
    assert batches[:2] != batches[2:]
    assert [schedule.batch(step, 7) for step in (3, 0)] == [batches[3], batches[0]]


def test_rates_rise_and_fall_as_the_schedule_says():
    schedule = QAT(steps=10, warmup=0.2, decay="linear", floor=0.5).schedule(8)
    assert [schedule.factor(step) for step in range(10)] == pytest.approx(
        [0.5, 1.0, *(0.5 + 0.5 * (1 - i / 8) for i in range(8))]
    )
    cosine = QAT(steps=8, decay="cosine").schedule(8)
    assert [round(cosine.factor(step), 6) for step in (0, 4)] == [1.0, 0.5]


def test_loss_is_the_divergence_of_softened_predictions_and_the_cross_entropy():
    student, teacher = torch.randn(2, 5, tiny.VOCABULARY, dtype=torch.float64, generator=torch.manual_seed(0)), None
    teacher = student + torch.randn(student.shape, dtype=torch.float64)
    ids = torch.randint(0, tiny.VOCABULARY, (2, 5))
    p, q = (torch.softmax(x / 3, -1) for x in (teacher, student))
    kl = 9 * (p * (p.log() - q.log())).sum(-1).mean()
    ce = -torch.softmax(student, -1).log()[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    loss = QAT(kl=0.7, ce=0.2, temperature=3.0).loss(student, teacher, ids)
    assert float(loss) == pytest.approx(float(0.7 * kl + 0.2 * ce), rel=1e-5)
