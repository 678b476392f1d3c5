import io
import json
import re
from pathlib import Path

import pytest

from quantbench.curves import curve_measurements
from quantbench.measurement import Measurement
from quantbench.report.terminal import show_run
from quantbench.store.parquet import RunPaths, Store
from tests.store import records

_PATHS = RunPaths(run=Path("results/runs/a1.parquet"), samples=Path("results/samples/a1.parquet"))

_MEASURED = [
    records.perplexity(12.345678, half=0.6, baseline=11.987654),
    Measurement("perplexity_ratio", "text", 1.02987, "ratio", 3, stderr=0.001, ci_low=1.0279, ci_high=1.0319),
    Measurement("kl_divergence", "text", 0.012345, "nats", 3, stderr=0.0005, ci_low=0.0113, ci_high=0.0133),
    Measurement("top1_agreement", "text", 0.9512, "fraction", 3, stderr=0.002, ci_low=0.947, ci_high=0.955),
    Measurement("entropy_floor", "text", 9.8765, "ppl", 3),
    Measurement("acc", "facts", 0.615, "fraction", 200, stderr=0.0344, baseline=0.64, higher_is_better=True),
    Measurement("flips", "facts", 0.045, "fraction", 200, stderr=0.0147),
]


def _shown(identity=None, measured=_MEASURED, **options) -> str:
    out = io.StringIO()
    show_run(identity or records.identity(), measured, _PATHS, file=out, **options)
    return out.getvalue()


def _line(output, start) -> str:
    (found,) = [line for line in output.splitlines() if line.startswith(start)]
    return found


@pytest.mark.parametrize("item", _MEASURED, ids=lambda item: item.metric)
def test_every_measurement_is_shown_to_its_last_supported_digit(item):
    line = _line(_shown(), f"{item.metric} ")
    numbers = [float(part) for part in re.findall(r"-?\d+\.\d+", line)]
    expected = [item.value] if item.baseline is None else [item.baseline, item.value]
    if item.metric == "entropy_floor":
        expected = [item.value, item.value]
    if item.task == "text" and item.ci_low is not None:
        expected += [item.ci_low, item.ci_high]
    elif item.stderr is not None:
        expected.append(item.stderr)
    half = 1.96 * item.stderr if item.stderr else 0.01
    assert numbers == pytest.approx(expected, abs=half / 10)


def test_cost_and_place_are_shown():
    output = _shown()
    assert "gptq | int 4 bit, group 64, asymmetric | tiny | float32" in output
    assert _line(output, "bits/weight").split() == ["bits/weight", "4.5"]
    assert "11.4 MiB model, 8.6 MiB of it quantized linears" in output
    assert "load 1.2 s, quantize 20.5 s (1.0 GiB)" in output
    assert _line(output, "note").endswith("2 dead columns in block 0")
    assert _line(output, "stored").endswith(str(_PATHS.run))


def test_errors_of_layers_are_one_line_below_the_table():
    errors = {"weight_error": 0.0432, "output_error": 0.0117}
    layers = [Measurement(metric, "layers", value, "fraction", 28) for metric, value in errors.items()]
    output = _shown(measured=[*_MEASURED, *layers])
    line = "layer error   weights 0.0432, outputs 0.0117 (relative, squared; mean of 28 linears)"
    assert _line(output, "layer error") == line
    assert output.replace(f"{line}\n", "") == _shown()


def test_contamination_is_said():
    assert "contaminated" not in _shown()
    assert "contaminated" in _shown(records.identity(contaminated=True))


def test_a_full_precision_run_says_so():
    output = _shown(records.full_precision())
    assert "fp16 | full precision | tiny" in output
    assert "calibration" not in output


def test_a_pipe_gets_plain_text_of_at_most_100_columns(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    identity = records.identity(variant="rounding.damp_percent=0.05", notes='["' + "many words " * 40 + '"]')
    output = _shown(identity, [*_MEASURED, records.perplexity(10.0, task="t" * 200)])
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 100


def test_an_ascii_stream_gets_ascii():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    show_run(records.identity(model="modèle"), _MEASURED, _PATHS, file=file)
    file.flush()
    output = raw.getvalue().decode("ascii")
    assert "+/- 0.034" in output
    assert "mod?le" in output


def test_a_stored_run_prints_what_the_finished_run_printed(tmp_path):
    store = Store(tmp_path)
    store.write(records.identity(), _MEASURED)
    assert _shown(*store.read("a1")) == _shown()


def test_many_notes_are_counted_and_not_all_printed():
    shown = _shown(records.identity(notes=json.dumps([f"expert {i} without tokens" for i in range(40)])))
    assert "expert 4 without tokens" in shown
    assert "expert 5 without tokens" not in shown
    assert "and 35 more, in the record" in shown


def test_a_loss_curve_is_one_line_below_the_table():
    output = _shown(measured=[*_MEASURED, *curve_measurements([2.0, 1.0, 0.125])])
    assert _line(output, "training") == "training      loss 2 to 0.125 in 3 steps"
    assert "train_loss" not in output
