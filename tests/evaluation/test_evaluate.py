import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.evaluate import Prepared, baseline, measure, prepare
from quantbench.evaluation.protocols import make_windows
from quantbench.evaluation.results import corpus_measurements, task_measurements
from quantbench.evaluation.scoring import nll_windows
from quantbench.evaluation.tasks import TaskScores
from quantbench.statistics import paired_difference
from tests.evaluation.test_tasks import write_task
from tests.evaluation.tiny import make_model, make_text, make_tokenizer


def prepared_text(folder: Path, *, text: str = "", **options: Any) -> Prepared:
    path = folder / "story.txt"
    path.write_text(text or make_text(120))
    config = Evaluation(protocol="gptq-48", corpus=str(path), batch_size=4, **options)
    return prepare(config, make_tokenizer(), max_context=64, cache_dir=folder)


def perturbed(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


def by_metric(measurements: list[Any]) -> dict[str, Any]:
    return {measurement.metric: measurement for measurement in measurements}


def test_measurements_equal_direct_computation_from_both_models(tmp_path: Path) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    base = baseline(prepared, model, identity={"name": "tiny"}, cache_dir=tmp_path)
    windows = [window.ids for window in prepared.window_set.windows]
    with torch.no_grad():
        log_p = [model(ids[None]).logits[0, :-1].double().log_softmax(-1) for ids in windows]
        perturbed(model)
        log_q = [model(ids[None]).logits[0, :-1].double().log_softmax(-1) for ids in windows]
    found = by_metric(measure(prepared, base, model))

    full, quantized = (
        np.array([-lp.gather(1, ids[1:, None]).mean().item() for lp, ids in zip(logs, windows, strict=True)])
        for logs in (log_p, log_q)
    )
    kl = [(p.exp() * (p - q)).sum(-1).mean().item() for p, q in zip(log_p, log_q, strict=True)]
    same = [(p.argmax(-1) == q.argmax(-1)).double().mean().item() for p, q in zip(log_p, log_q, strict=True)]
    assert found["perplexity"].value == pytest.approx(math.exp(quantized.mean()), rel=1e-5)
    assert found["perplexity"].baseline == pytest.approx(math.exp(full.mean()), rel=1e-5)
    np.testing.assert_allclose(found["perplexity"].samples.values, quantized, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"].samples.baseline, full, rtol=1e-5)
    assert found["perplexity_ratio"].value == pytest.approx(math.exp((quantized - full).mean()), rel=1e-5)
    expected = paired_difference(quantized, full, np.ones(len(full))).interval().map_exp()
    assert (found["perplexity_ratio"].ci_low, found["perplexity_ratio"].ci_high) == pytest.approx(
        (expected.low, expected.high), rel=1e-5
    )
    assert found["kl_divergence"].value == pytest.approx(np.mean(kl), rel=1e-4)
    assert found["kl_divergence"].value > 1e-4
    assert found["top1_agreement"].value == pytest.approx(np.mean(same))


def test_a_changed_head_and_basis_still_compare_with_full_precisions_own_head(tmp_path: Path) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    base = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    with torch.no_grad():
        model.model.norm.weight *= 4.0
        model.lm_head.weight /= 4.0
    assert by_metric(measure(prepared, base, model))["kl_divergence"].value == pytest.approx(0.0, abs=1e-6)


def test_full_precision_measures_itself_without_a_second_pass(tmp_path: Path) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    base = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    found = by_metric(measure(prepared, base))
    assert set(found) == {"perplexity"}
    expected = nll_windows(model, prepared.window_set.windows).mean()
    assert found["perplexity"].value == pytest.approx(math.exp(expected), rel=1e-6)


def test_a_stored_baseline_is_read_and_not_computed_again(tmp_path: Path) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    first = baseline(prepared, model, identity={"name": "tiny"}, cache_dir=tmp_path)
    states = [state.clone() for state in first.states()]

    # Another model under the same identity shows which of the two was scored.
    again = baseline(prepared, perturbed(model), identity={"name": "tiny"}, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.nll, first.nll)
    assert all(torch.equal(a, b) for a, b in zip(states, again.states(), strict=True))
    other = baseline(prepared, model, identity={"name": "other"}, cache_dir=tmp_path)
    assert not np.array_equal(other.nll, first.nll)


@pytest.mark.parametrize(
    "change",
    [{"text": make_text(120, seed=7)}, {"max_windows": 3}, {"divergence": False}],
    ids=lambda change: next(iter(change)),
)
def test_another_text_or_setting_has_another_baseline(tmp_path: Path, change: dict) -> None:
    model = make_model()
    first = baseline(prepared_text(tmp_path), model, identity={}, cache_dir=tmp_path)
    second = baseline(prepared_text(tmp_path, **change), model, identity={}, cache_dir=tmp_path)
    assert first.folder != second.folder


def test_another_dtype_has_another_baseline(tmp_path: Path) -> None:
    prepared = prepared_text(tmp_path)
    folders = {
        baseline(prepared, make_model(dtype=dtype), identity={}, cache_dir=tmp_path).folder
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(folders) == 2


@pytest.mark.parametrize("name", ["meta.json", "head.safetensors", "states-00000.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_baseline_is_reported_and_computed_again(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    first = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    path = first.folder / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(again.nll, first.nll)
    assert len(list(again.states())) == len(again.nll)
    assert [entry.name for entry in (tmp_path / "baseline").iterdir()] == [first.folder.name]


def test_an_interrupted_baseline_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, model = prepared_text(tmp_path), make_model()
    monkeypatch.setattr("quantbench.evaluation.evaluate.mean_nll", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        baseline(prepared, model, identity={}, cache_dir=tmp_path)
    assert list((tmp_path / "baseline").iterdir()) == []


def test_tasks_are_paired_with_full_precision_and_cached(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_task(tasks, "tiny_three", items=15, seed=3)
    prepared, model = prepared_text(tmp_path, tasks=["tiny_three"], include_path=str(tasks)), make_model(context=256)
    base = baseline(prepared, model, identity={}, cache_dir=tmp_path)
    found = {(m.task, m.metric): m for m in measure(prepared, base, make_model(context=256, seed=5))}
    accuracy, flips = found["tiny_three", "acc"], found["tiny_three", "flips"]
    stored = {score.metric: score for score in base.scores}
    assert accuracy.baseline == stored["acc"].value
    changed = np.array(stored["acc"].values) != accuracy.samples.values
    assert flips.value == pytest.approx(changed.mean())
    assert accuracy.count == flips.count == 15


def test_accuracy_standard_error_is_lm_evals() -> None:
    from lm_eval.api.metrics import mean_stderr

    values = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0)
    score = TaskScores("task", "acc", "mean", float(np.mean(values)), tuple("abcdefg"), values, True)
    (found,) = task_measurements([score], None)
    assert found.stderr == pytest.approx(mean_stderr(list(values)))
    assert found.unit == "fraction"


def test_a_tasks_own_perplexity_does_not_take_the_protocols_name() -> None:
    score = TaskScores("lambada", "perplexity", "exp_mean", math.exp(1.5), ("0", "1"), (1.0, 2.0), False)
    (found,) = task_measurements([score], None)
    assert (found.metric, found.unit) == ("task_perplexity", "ppl")
    assert found.value == pytest.approx(math.exp(1.5))


def test_world_windows_carry_the_entropy_of_their_own_targets(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    import quantbench
    from quantbench.data import world

    tokenizer = AutoTokenizer.from_pretrained(Path(quantbench.__file__).parent / "assets" / "world")
    config = Evaluation(protocol="gptq-100", corpus="world")
    prepared = prepare(config, tokenizer, max_context=512, cache_dir=tmp_path)
    floor = world.floor("test")
    count = len(prepared.window_set.windows)
    assert count == len(floor) // 100
    # Every token's entropy is in one window, is a window's unscored first token, or is in the dropped tail.
    unscored = sum(floor[0 : 100 * count : 100]) + sum(floor[100 * count :])
    assert prepared.floor is not None
    assert prepared.floor.sum() * 99 + unscored == pytest.approx(sum(floor))
    assert prepared.floor[1] == pytest.approx(np.mean(floor[101:200]))


def test_known_entropy_is_reported_over_the_same_targets() -> None:
    from quantbench.data.corpora import Documents

    text = Documents("text", "test", (make_text(100),), "", "")
    windows = make_windows("gptq-64", text, make_tokenizer(), max_context=64)
    floor = np.linspace(1.0, 2.0, len(windows.windows))
    found = by_metric(corpus_measurements("text", windows, floor + 0.5, floor=floor))
    assert found["entropy_floor"].value == pytest.approx(math.exp(1.5))
    assert found["perplexity"].value / found["entropy_floor"].value == pytest.approx(math.exp(0.5))
