"""The tuners' loop on tiny architectures: error, preservation of the function, determinism, targets, schedule."""

import copy

import pytest
import torch

from quantbench.errors import QuantizationError
from quantbench.methods.rounding import GPTQ, RTN, AutoRound, OmniQuant
from quantbench.methods.rounding.tuner import Schedule, TunableScale
from quantbench.models.capture import block_inputs
from quantbench.models.folds import takes_shift
from quantbench.models.solve import apply_result
from quantbench.models.tune import TunedBlock, TuningData, tune
from quantbench.models.walk import quantize
from tests.models import tiny
from tests.models.test_walk import CPU, load, variant

FEW = AutoRound(iterations=5, lr=0.05)


def errors(model, structure, ids, variants):
    """Mean squared error of the logits of each variant."""
    found = []
    with torch.no_grad():
        before = model(ids).logits
        results = quantize(model, structure, variants, ids, device=CPU)
        for result in results:
            undo = apply_result(model, result)
            found.append(float((model(ids).logits - before).square().mean()))
            undo()
    return found


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_tuned_blocks_beat_round_to_nearest(name):
    model, structure, ids = load(name)
    nearest, ours = errors(model, structure, ids, [variant(RTN(), bits=3), variant(FEW, bits=3)])
    assert ours < 0.8 * nearest


class FixedScale(TunableScale):
    """A scale that is given, with a shift where the site takes one."""

    def __init__(self, value, shift):
        self.value, self.constant = value, shift

    def groups(self):
        return []

    def scale(self):
        return self.value

    def shift(self):
        return self.constant


def fixed_scales(block):
    """Random scales and shifts for every site that folds, one for each fold."""
    generator, seen, scales = torch.Generator().manual_seed(0), set(), []
    for site in block.sites:
        if site.fold is None or site.fold.sites in seen:
            continue
        seen.add(site.fold.sites)
        width = block.module.get_submodule(site.linears[0]).in_features
        value, constant = torch.exp(torch.randn(width, generator=generator)), torch.randn(width, generator=generator)
        if site.fold.rows is not None:  # the same for channels that one row feeds
            index = site.fold.rows.unique(return_inverse=True)[1]
            value, constant = value[: int(index.max()) + 1][index], constant[: int(index.max()) + 1][index]
        scales.append((site, FixedScale(value, constant if takes_shift(block.module, site) else None)))
    return scales


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_learned_scales_and_shifts_preserve_the_function_while_tuning_and_after_the_fold(name):
    model, structure, ids = load(name)
    inputs = block_inputs(model, structure, [ids])
    block = structure.blocks[0]
    module = copy.deepcopy(block.module)
    tuned = TunedBlock(block, module, CPU, {}, fixed_scales(block))
    assert tuned.scales
    args, kwargs = inputs.call(0, inputs.hidden[0])

    def run(**parameters):
        output = torch.func.functional_call(module, parameters, (inputs.hidden[0], *args), kwargs)
        return output[0] if isinstance(output, tuple) else output

    expected = run()
    data = TuningData(inputs, [[expected]])
    scale = expected.square().mean()
    assert tuned.error(data, data.samples()) < 1e-9 * scale
    with_scales = tuned.parameters()
    tuned.fold_()
    for parameter, value in with_scales.items():
        torch.testing.assert_close(module.get_parameter(parameter).data, value, rtol=1e-5, atol=1e-6)
    assert (run() - expected).square().mean() < 1e-9 * scale


def test_shifts_are_used_where_there_are_biases_and_only_there():
    def shifted(name):
        block = load(name)[1].blocks[0]
        return {site.role for site in block.sites if takes_shift(block.module, site)}

    assert shifted("opt") == {"attention_in", "attention_out", "mlp_in"}
    assert shifted("gpt2") == {"attention_in", "attention_out", "mlp_in"}
    assert shifted("llama") == set()
    assert shifted("mixtral") == set()


@pytest.mark.parametrize("name", ["llama", "opt", "mixtral"])
def test_transform_at_zero_epochs_changes_the_logits_by_eight_bits_of_error_only(name):
    model, structure, ids = load(name)
    plain, scaled = errors(
        model, structure, ids, [variant(RTN(), bits=8), variant(OmniQuant(epochs=0, let=True), bits=8)]
    )
    assert scaled < 20 * plain  # 8 bits; sigmoid(4) clips the largest weights by two per cent


@pytest.mark.parametrize("tuner", [FEW, OmniQuant(epochs=2, let=True)], ids=["autoround", "omniquant"])
@pytest.mark.parametrize("statistics", ["propagate", "fp"])
def test_same_result_alone_with_other_variants_and_again(tuner, statistics):
    model, structure, ids = load("qwen2")
    one = variant(tuner, statistics=statistics)
    others = [variant(GPTQ(), statistics="fp"), one, variant(AutoRound(iterations=2, batch_size=3)), variant(RTN())]
    alone, again = (quantize(model, structure, [one], ids, device=CPU)[0] for _ in range(2))
    together = quantize(model, structure, others, ids, device=CPU)[1]
    for result in (again, together):
        assert alone.parameters.keys() == result.parameters.keys()
        assert all(torch.equal(value, result.parameters[name]) for name, value in alone.parameters.items())
        for name, weight in alone.weights.items():
            assert torch.equal(weight.codes, result.weights[name].codes), name
            assert torch.equal(weight.scale, result.weights[name].scale), name


def test_propagated_inputs_let_a_block_make_up_for_the_blocks_before_it():
    model, structure, ids = load("llama")
    tuner = AutoRound(iterations=30, lr=0.02)
    nearest, fp, propagated = errors(
        model, structure, ids, [variant(bits=3), variant(tuner, bits=3, statistics="fp"), variant(tuner, bits=3)]
    )
    assert propagated < fp < nearest


def test_augmented_target_is_what_the_full_precision_block_gives_for_the_tuned_inputs():
    model, structure, ids = load("llama")
    plain, augmented = (
        quantize(model, structure, [variant(OmniQuant(2, aug_loss=a), bits=3)], ids, device=CPU)[0]
        for a in (False, True)
    )

    def equal_scales(block):
        pairs = [
            (plain.weights[n].scale, augmented.weights[n].scale) for n in plain.weights if n.startswith(block.name)
        ]
        return torch.cat([(a == b).flatten() for a, b in pairs]).float().mean()

    # the first block's inputs are the full-precision ones: twice the same loss, to which AdamW's steps are blind
    assert equal_scales(structure.blocks[0]) > 0.95
    assert equal_scales(structure.blocks[-1]) < 0.8


class Line(TunableScale):
    """One number in the place of a scale: its course shows what the loop does."""

    def __init__(self):
        self.value, self.course = torch.tensor([1.0], requires_grad=True), []

    def groups(self):
        return [{"params": [self.value], "lr": 0.1}]

    def project_(self):
        self.course.append(self.value.item())

    def scale(self):
        raise NotImplementedError

    def shift(self):
        raise NotImplementedError


class Watched(TunedBlock):
    """A block whose error is |value - 0.75| plus the mean of the samples; it notes which samples came."""

    def error(self, data, samples):
        self.seen.append([int(sample[0]) for sample in samples])
        return (self.line.value - 0.75).abs().sum()


def watched(schedule, samples=5):
    _, structure, _ = load("llama")
    block = structure.blocks[0]
    tuned = Watched(block, copy.deepcopy(block.module), CPU, {})
    tuned.line, tuned.seen = Line(), []
    tuned.scales = [(block.sites[0], tuned.line)]
    hidden = [torch.arange(samples)]
    tune(tuned, TuningData(type("Inputs", (), {"hidden": hidden})(), [hidden]), AutoRound(), schedule)
    return tuned


def test_learning_rate_falls_linearly_and_the_best_step_is_kept():
    tuned = watched(Schedule(4, 2, shuffled=True, decay="linear", keep_best=True))
    assert tuned.line.course == pytest.approx([0.9, 0.825, 0.775, 0.75])
    assert tuned.line.value.item() == pytest.approx(0.775)  # the least loss that was computed
    tuned = watched(Schedule(4, 2, shuffled=False, decay="none", keep_best=False))
    assert tuned.line.course == pytest.approx([0.9, 0.8, 0.7, 0.8])
    assert tuned.line.value.item() == pytest.approx(0.8)


def test_each_pass_uses_every_sample_at_most_once():
    seen = watched(Schedule(6, 2, shuffled=True, decay="none", keep_best=True, seed=3)).seen
    for first in range(0, 6, 2):
        assert len(set(seen[first] + seen[first + 1])) == 4
    assert len({tuple(batch) for batch in seen}) > 2, "passes differ in order"
    assert watched(Schedule(3, 2, shuffled=False, decay="none", keep_best=True)).seen == [[0, 1], [2, 3], [0, 1]]


def test_an_output_that_is_not_finite_stops_the_run_and_names_the_block():
    model, structure, ids = load("llama")
    model.model.layers[1].input_layernorm.weight.data[0] = float("nan")
    with pytest.raises(QuantizationError, match=r"layers\.1: the output error of the block is not a finite number"):
        quantize(model, structure, [variant(FEW)], ids, device=CPU)
