import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantbench.report.table import main
from tests.report import sampled
from tests.store import records


def _rtn(**changes):
    return records.uncalibrated(method="rtn", rounding="rtn", **changes)


@pytest.fixture
def close(results):
    """GPTQ best by a hair over AWQ, and far ahead of RTN."""
    results.add(records.full_precision(), sampled.perplexity(0.0))
    results.add(records.identity(), sampled.perplexity(0.030))
    results.add(records.identity(method="awq"), sampled.perplexity(0.031, noise=1))
    return results.add(_rtn(), sampled.perplexity(0.08, noise=2))


def test_what_is_not_significantly_worse_than_the_best_is_underlined(close):
    _, out, _ = close.table()
    # The full-precision row is what the others are read against: it has no part in the ranking.
    rows = [line.split("|") for line in out.splitlines() if line.startswith("| ")]
    lines = {parts[1].strip(): parts[2].strip() for parts in rows}
    assert lines["gptq"].startswith("**")
    assert lines["awq"].startswith("<u>")
    assert lines["rtn"][0].isdigit()
    assert lines["fp16"][0].isdigit()
    assert "bold: best; underlined: not significantly worse (p >= 0.05; paired tests, Holm over 2 comparisons" in out


def test_the_correction_counts_every_comparison_of_the_table(close):
    for bits in (2, 3):
        close.add(records.identity(bits=bits), sampled.perplexity(0.1 * bits))
        close.add(_rtn(bits=bits), sampled.perplexity(0.2 * bits))
    assert "Holm over 4 comparisons" in close.table()[1]


def test_ranks_are_within_groups(close):
    close.add(records.identity(bits=2), sampled.perplexity(0.9))
    close.add(_rtn(bits=2), sampled.perplexity(1.9))
    _, out, _ = close.table("--group", "bits", "--cols", "task")
    assert out.count("**") == 4
    assert "*bits=2*" in out


def test_runs_without_samples_are_ranked_but_not_tested(results):
    results.add(records.identity(), records.perplexity(10.0)).add(_rtn(), records.perplexity(11.0))
    _, out, _ = results.table()
    assert "**10.00**" in out
    assert "<u>" not in out
    assert "not tested: the metric keeps no samples" in out


def test_errors_of_layers_are_ranked_but_not_tested(results):
    results.add(records.identity(), *sampled.layers(0.1)).add(_rtn(), *sampled.layers(0.1001))
    _, out, _ = results.table("--metric", "weight_error")
    assert out.count("**") == 2
    assert "<u>" not in out
    assert "not tested: the metric keeps no samples of a text or task" in out


def test_errors_of_layers_do_not_depend_on_the_text_that_was_scored(results):
    results.add(records.identity(corpus="layers"), *sampled.layers(0.1))
    results.add(_rtn(corpus="layers", protocol="gptq-64", evaluation_hash="e2"), *sampled.layers(0.2))
    assert results.table("--metric", "weight_error")[0] == 0


def test_a_parquet_file_alone_has_no_samples(close):
    path = close.store.root / "all.parquet"
    runs = sorted((close.store.root / "runs").glob("*.parquet"))
    pq.write_table(pa.concat_tables([pq.read_table(run) for run in runs]), path)
    assert main([str(path)]) == 0
    assert "not tested: samples are not in the store" in close.capsys.readouterr().out


def test_a_broken_run_is_neither_best_nor_tied(close):
    close.add(records.identity(method="hqq"), sampled.perplexity(float("inf")))
    _, out, _ = close.table()
    assert re.search(r"\| hqq +\| +inf \|", out)


def test_numbers_measured_differently_are_not_ranked(close):
    close.add(records.identity(method="hqq", dtype="bfloat16"), sampled.perplexity(0.01))
    _, out, _ = close.table("--mix", "dtype")
    assert "**" not in out
    assert "; mixes dtype, as asked: bfloat16, float32\n" in out
