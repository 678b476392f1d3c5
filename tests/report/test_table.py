import json
import math

import pytest

from quantbench.measurement import Measurement
from quantbench.report.table import main
from tests.store import records

_AWQ = {"method": "awq", "transform": "awq", "rounding": "rtn", "calibration": "pileval"}
_RTN = {"method": "rtn", "rounding": "rtn"}


@pytest.fixture
def comparison(results):
    """Full precision, and three methods at 3 and 4 bit; AWQ has no 3-bit run and GPTQ's is contaminated."""
    results.add(records.full_precision(), records.perplexity(10.0, half=0.5))
    results.add(records.identity(), records.perplexity(10.456, half=0.5))
    results.add(records.identity(bits=3, contaminated=True), records.perplexity(11.5, half=0.6))
    results.add(records.uncalibrated(**_RTN), records.perplexity(10.789, half=0.5))
    results.add(records.uncalibrated(**_RTN, bits=3), records.perplexity(13.25, half=12.0))
    return results.add(records.identity(**_AWQ), records.perplexity(10.5, half=0.5))


_TITLE = (
    "perplexity (ppl), lower is better; on text; protocol gptq-512; model tiny (0123456789ab); float32; "
    "group size 64; zero-point asymmetric; format int"
)


def test_markdown_is_aligned_and_says_what_it_compares(comparison):
    code, out, err = comparison.table()
    assert (code, err) == (0, "")
    assert out == (
        f"{_TITLE}\n"
        "\n"
        "| method |     bits=3 |    bits=4 |\n"
        "| ------ | ---------: | --------: |\n"
        "| fp16   |      10.00 |     10.00 |\n"
        "| awq    |          - |     10.50 |\n"
        "| gptq   | **11.50**† | **10.46** |\n"
        "| rtn    |         13 |     10.79 |\n"
        "\n"
        "calibration: c4 128x2048 (gptq); pileval 128x2048 (awq)\n"
        "\n"
        "statistics: propagate (awq, gptq)\n"
        "\n"
        "† calibrated on the corpus that is evaluated\n"
        "\n"
        "bold: best; whether others are worse is not tested: the metric keeps no samples of a text or task\n"
    )


def test_csv_keeps_every_digit_and_tells_the_rest_on_stderr(comparison):
    _, out, err = comparison.table("--format", "csv")
    assert out == "method,bits=3,bits=4\nfp16,10.0,10.0\nawq,,10.5\ngptq,11.5,10.456\nrtn,13.25,10.789\n"
    assert f"note: {_TITLE}\n" in err
    assert "† calibrated on the corpus" in err


def test_markdown_cells_cannot_break_out_of_their_column(results):
    _, out, _ = results.add(records.identity(method="a|b"), records.perplexity(10.0)).table()
    assert "| a\\|b " in out


def test_output_goes_to_a_file(comparison, tmp_path):
    code, out, _ = comparison.table("-o", str(tmp_path / "table.md"))
    assert (code, out) == (0, "")
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == comparison.table()[1]
    assert "cannot write" in comparison.refusal("-o", str(tmp_path / "missing" / "table.md"))


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        (
            ["--rows", "bits", "--cols", "method"],
            ["bits,awq,fp16,gptq,rtn", "3,,10.0,11.5,13.25", "4,10.5,10.0,10.456,10.789"],
        ),
        (["--where", "method=gptq,fp16", "bits=4"], ["method,bits=4", "fp16,10.0", "gptq,10.456"]),
        (
            ["--rows", "transform,rounding", "--where", "bits=4"],
            ["transform,rounding,bits=4", "none,none,10.0", "awq,rtn,10.5", "none,gptq,10.456", "none,rtn,10.789"],
        ),
        (
            ["--rows", "group_size", "--where", "method=gptq,fp16"],
            ["group_size,bits=3,bits=4", "fp16,10.0,10.0", "64,11.5,10.456"],
        ),
        (
            ["--cols", "rounding.damp_percent", "--where", "bits=4", "method=gptq"],
            ["method,rounding.damp_percent=0.01", "fp16,10.0", "gptq,10.456"],
        ),
    ],
    ids=["bits-by-method", "where", "two-row-fields", "group-size", "config-field"],
)
def test_any_recorded_field_makes_rows_and_columns_with_full_precision_beside(comparison, options, grid):
    assert comparison.grid(*options) == grid


def test_full_precision_comes_from_the_recorded_baseline_when_it_has_no_run(results):
    results.add(records.identity(), records.perplexity(11.0, baseline=10.25))
    results.add(records.identity(bits=3), records.perplexity(12.0, baseline=10.25))
    assert results.grid() == ["method,bits=3,bits=4", "fp16,10.25,10.25", "gptq,12.0,11.0"]
    results.add(records.identity(bits=2), records.perplexity(13.0, baseline=10.5))
    assert results.grid()[1:] == ["gptq,13.0,12.0,11.0"]


def test_a_whole_row_group_is_not_taken_for_full_precision(results):
    results.add(records.full_precision(), records.perplexity(10.0))
    results.add(records.identity(group_size=None), records.perplexity(12.0))
    results.add(records.identity(), records.perplexity(11.0))
    assert results.grid("--rows", "group_size") == ["group_size,bits=4", "fp16,10.0", ",12.0", "64,11.0"]


@pytest.mark.parametrize(
    ("field", "change", "choice"),
    [
        ("protocol", {"protocol": "llamacpp-512"}, "--where protocol=gptq-512"),
        ("corpus", {"corpus": "other"}, "--where corpus=other"),
        ("model", {"model": "large"}, "--where model=large"),
        ("model_revision", {"model_revision": "main2"}, "--where model_revision=main2"),
        ("dtype", {"dtype": "bfloat16"}, "--where dtype=bfloat16"),
        ("evaluation_hash", {"evaluation_hash": "e0"}, "--where evaluation_hash=e0"),
    ],
)
def test_a_table_refuses_to_mix(results, field, change, choice):
    results.add(records.identity(), records.perplexity(10.0))
    task = change.get("corpus", "text")
    results.add(records.identity(**_AWQ, **change), records.perplexity(11.0, task=task))
    error = results.refusal()
    assert f"would mix {'task' if field == 'corpus' else field}" in error
    assert results.table("--rows", f"method,{field}", "--cols", "bits,task")[0] == 0
    if field != "corpus":
        assert choice in error
    assert results.table(*choice.split())[0] == 0


def test_models_in_rows_may_have_their_own_revision_and_windows(results):
    results.add(records.identity(), records.perplexity(10.0))
    other = {"model": "large", "model_revision": "main2", "evaluation_hash": "e0"}
    results.add(records.identity(**other), records.perplexity(9.0))
    assert results.grid("--rows", "model,method")[-1] == "tiny,gptq,10.0"


def test_models_in_rows_are_not_ranked(results):
    results.add(records.identity(), records.perplexity(10.0))
    results.add(records.identity(model="large"), records.perplexity(9.0))
    assert "**" not in results.table("--rows", "model")[1]


def _accuracy(value, task="facts", count=200):
    return Measurement("acc", task, value, "fraction", count, stderr=0.03, higher_is_better=True)


def test_accuracy_does_not_depend_on_the_perplexity_protocol(results):
    results.add(records.identity(), _accuracy(0.5))
    results.add(records.identity(**_AWQ, protocol="llamacpp-512"), _accuracy(0.625))
    _, out, _ = results.table("--metric", "acc")
    assert out.startswith("acc (fraction), higher is better; on facts; model tiny")
    assert "**0.625**" in out


@pytest.mark.parametrize("changed", ["items", "shots"])
def test_accuracy_on_other_items_or_prompts_is_refused(results, changed):
    config = json.dumps({"evaluation": {"num_fewshot": 5 if changed == "shots" else None}})
    results.add(records.identity(), _accuracy(0.5))
    results.add(records.identity(**_AWQ, config=config), _accuracy(0.6, count=100 if changed == "items" else 200))
    field = "evaluation.num_fewshot" if changed == "shots" else "count"
    assert f"would mix {field} for facts" in results.refusal("--metric", "acc")


def test_tasks_are_chosen_or_shown(results):
    results.add(records.identity(), _accuracy(0.5), _accuracy(0.25, task="sums"))
    assert "--task facts" in results.refusal("--metric", "acc")
    assert results.grid("--metric", "acc", "--task", "sums") == ["method,bits=4", "gptq,0.25"]
    assert results.grid("--metric", "acc", "--cols", "task") == ["method,facts,sums", "gptq,0.5,0.25"]
    assert "available: facts, sums" in results.refusal("--metric", "acc", "--task", "piqa")


def test_metrics_can_be_columns(results):
    results.add(records.identity(), _accuracy(0.5), records.perplexity(10.0, baseline=None))
    assert results.grid("--cols", "metric,task") == ["method,acc facts,perplexity text", "gptq,0.5,10.0"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "differ in seed: 0, 1"),
        ({"group_size": 128}, "differ in group_size: 128, 64"),
        ({"config": json.dumps({"rounding": {"damp_percent": 0.05}})}, "rounding.damp_percent: 0.01, 0.05"),
        ({"git_commit": "e" * 40}, "differ in git_commit"),
    ],
    ids=["seed", "group-size", "config", "code"],
)
def test_two_runs_in_one_cell_are_refused_by_what_differs(results, change, named):
    results.add(records.identity(), records.perplexity(10.0))
    results.add(records.identity(**change), records.perplexity(11.0))
    error = results.refusal()
    assert "2 runs fall into the cell method=gptq, bits=4" in error
    assert named in error


def test_settings_that_differ_between_rows_are_footnotes(results):
    results.add(records.identity(), records.perplexity(10.0))
    results.add(records.identity(**_AWQ, group_size=None, variant="rounding=hqq"), records.perplexity(11.0))
    _, out, _ = results.table()
    assert "\ngroup size: 64 (gptq); whole row (awq)\n" in out
    assert "\nvariant: rounding=hqq (awq)\n" in out
    assert "group size" not in out.partition("\n")[0]


def test_a_model_that_broke_is_shown_and_never_the_best(results):
    results.add(records.identity(), records.perplexity(math.nan, baseline=None, half=math.nan))
    results.add(records.identity(**_AWQ), records.perplexity(math.inf, baseline=None, half=math.nan))
    results.add(records.uncalibrated(**_RTN), records.perplexity(1234567.0, baseline=None))
    _, out, _ = results.table()
    assert [line.split("|")[2].strip() for line in out.splitlines()[4:7]] == ["inf", "nan", "1.23e+06"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "ppl"], "metric 'ppl' is not stored; available: perplexity"),
        (["--rows", "mehtod"], "unknown field 'mehtod': did you mean method?"),
        (["--cols", "zzz"], "unknown field 'zzz': recorded are run_id, method"),
        (["--where", "bits=9"], "no stored run has bits=9; stored: 3, 4, none"),
        (["--where", "bits"], "give FIELD=VALUE"),
        (["--rows", ""], "--rows"),
        (["--rows", "bits"], "bits is given twice"),
        (["--format", "pdf"], "--format"),
        (["--typo"], "--typo"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_one_line_that_says_what_is_allowed(comparison, options, said):
    assert said in comparison.refusal(*options)


def test_nothing_stored_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: no results at ")


def test_a_quantized_run_started_from_the_full_precision_preset_is_not_the_reference(results):
    results.add(records.full_precision(), records.perplexity(10.0))
    results.add(records.identity(method="fp16", variant="rounding=gptq"), records.perplexity(11.0))
    results.add(records.identity(method="fp16", variant="rounding=gptq", bits=3), records.perplexity(12.0))
    assert results.grid("--rows", "method,variant") == [
        "method,variant,bits=3,bits=4",
        "fp16,,10.0,10.0",
        "fp16,rounding=gptq,12.0,11.0",
    ]
