import json
from dataclasses import replace

import pytest

from quantbench.curves import curve_measurements
from quantbench.report.compare import main
from quantbench.store.parquet import Store
from tests.report import sampled
from tests.store import records


class Runs:
    """A results folder to fill and to compare in."""

    def __init__(self, root, capsys):
        self.store, self.capsys = Store(root), capsys

    def add(self, identity, *measured):
        self.store.write(identity, measured)
        return self

    def compare(self, *arguments) -> str:
        code = main([*arguments, "--results", str(self.store.root)])
        out, err = self.capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    def refusal(self, *arguments) -> str:
        code = main([*arguments, "--results", str(self.store.root)])
        out, err = self.capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        return err


@pytest.fixture
def runs(tmp_path, capsys):
    """GPTQ a little better than RTN, and as many answers changed for the better as for the worse."""
    found = Runs(tmp_path, capsys)
    found.add(records.identity(run_id="gptq-a"), sampled.perplexity(0.03), sampled.accuracy(range(20, 40)))
    rtn = records.uncalibrated(run_id="rtn-a", method="rtn", rounding="rtn")
    return found.add(rtn, sampled.perplexity(0.06, noise=1), sampled.accuracy(range(0, 20)))


def test_a_real_difference_is_told_with_its_evidence(runs):
    out = runs.compare("method=gptq,bits=4", "method=rtn")
    assert out.startswith("A: gptq, int 4 bit, group 64, run gptq-a\nB: rtn, int 4 bit, group 64, run rtn-a\n")
    assert "differ in: method gptq | rtn; rounding gptq | rtn; " in out
    line = next(line for line in out.splitlines() if line.startswith("perplexity"))
    assert line.startswith("perplexity on text: gptq 4 bit is better than rtn 4 bit: ")
    assert "; ratio 0.9" in line
    assert line.endswith(" - real")


def test_runs_that_leave_the_weights_are_not_named_by_the_weights_bits(runs):
    stays = {"rounding": "none", "bits": 16, "group_size": None, "kv_bits": 4}
    kv4 = records.uncalibrated(run_id="kv4-a", method="kv4", kv_cache="int4", **stays)
    other = replace(kv4, run_id="kv4-b", variant="kv_cache.rotate=true")
    runs.add(kv4, sampled.perplexity(0.03)).add(other, sampled.perplexity(0.06, noise=1))
    out = runs.compare("kv4-a", "kv4-b")
    assert out.startswith(
        "A: kv4, weights in full precision, run kv4-a\nB: kv4, weights in full precision, kv_cache.rotate"
    )
    assert "perplexity on text: kv4 is better than kv4 kv_cache.rotate=true: " in out


def test_errors_of_layers_and_loss_curves_are_not_compared_and_correct_no_p_value(runs):
    without = runs.compare("gptq", "rtn")
    gptq, curve = records.identity(run_id="gptq-a"), curve_measurements([2.0, 1.0])
    runs.add(gptq, sampled.perplexity(0.03), sampled.accuracy(range(20, 40)), *sampled.layers(0.1), *curve)
    rtn, curve = records.uncalibrated(run_id="rtn-a", method="rtn", rounding="rtn"), curve_measurements([3.0, 2.5])
    runs.add(rtn, sampled.perplexity(0.06, noise=1), sampled.accuracy(range(0, 20)), *sampled.layers(0.2), *curve)
    assert runs.compare("gptq", "rtn") == without


def test_volume_and_direction_of_changed_answers_are_apart(runs):
    line = runs.compare("gptq", "rtn").splitlines()[-1]
    assert line.startswith("acc on facts: gptq 4 bit equals rtn 4 bit: ")
    assert "40 of 200 answers change, 20 for the better and 20 for the worse from rtn 4 bit to gptq 4 bit" in line
    assert "from full precision: gptq 4 bit 30 of 200 answers change, 10 for the better and 20 for the worse" in line
    assert line.endswith("may be chance")


def test_swapping_the_sides_swaps_the_verdict(runs):
    assert "rtn 4 bit is worse than gptq 4 bit" in runs.compare("rtn", "gptq")


def test_json_is_for_programs(runs):
    found = json.loads(runs.compare("gptq", "rtn", "--json"))
    assert (found["a"], found["b"]) == (["gptq-a"], ["rtn-a"])
    perplexity, accuracy = found["findings"]
    assert perplexity["real"]
    assert perplexity["comparison"]["low"] < -0.03 + 0.02
    assert not accuracy["real"]
    assert accuracy["comparison"]["changes"]["better"] == 20
    # Holm over two: the smaller p doubles.
    assert perplexity["p_adjusted"] == pytest.approx(2 * perplexity["comparison"]["p_value"])


def test_a_broken_run_is_worse_without_a_test(runs):
    broken = sampled.perplexity(float("inf"))
    runs.add(records.identity(run_id="bad", method="awq"), replace(broken, value=float("inf"), ci_low=None))
    assert "awq 4 bit broke, gptq 4 bit did not: inf vs " in runs.compare("bad", "gptq")
    assert runs.compare("gptq", "bad").endswith("no test: a run broke, or has a single sample\n")


def test_seeds_of_one_configuration_are_a_level_of_their_own(tmp_path, capsys):
    runs = Runs(tmp_path, capsys)
    for seed, shift in enumerate((0.0, 0.06, 0.12, 0.01)):
        identity = records.identity(
            run_id=f"g{seed}", seed=seed, calibration_hash=f"c{seed}", git_commit=f"{seed}" * 40
        )
        runs.add(identity, sampled.perplexity(shift, noise=seed, spread=0.001))
    runs.add(records.uncalibrated(run_id="rtn", method="rtn", rounding="rtn"), sampled.perplexity(0.04, spread=0.001))
    out = runs.compare("method=gptq", "method=rtn")
    assert "A: gptq, int 4 bit, group 64, seeds 0, 1, 2, 3, runs g0, g1, g2, g3" in out
    assert "sd between seeds 0.05" in out
    assert out.endswith("may be chance\n")
    # One seed alone would have called it real: its windows hardly differ from each other.
    assert runs.compare("g0", "rtn").endswith("real\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "llamacpp-512"}, "protocol differs (gptq-512, llamacpp-512)"),
        ({"model": "large"}, "model differs (large, tiny)"),
        ({"dtype": "bfloat16"}, "dtype differs (bfloat16, float32)"),
        ({"evaluation_hash": "e2"}, "evaluation_hash differs (e1, e2)"),
    ],
)
def test_what_was_measured_otherwise_is_refused(runs, change, said):
    runs.add(records.identity(run_id="other", **change), sampled.perplexity(0.03))
    assert f"A and B cannot be compared: {said}" in runs.refusal("gptq-a", "other")


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("nothing", "rtn"), "A: no stored run begins with 'nothing'"),
        (("gptq", "method=hqq"), "no stored run has method=hqq; stored: gptq, rtn"),
        (("gptq", "gptq-a"), "A and B share a run (gptq-a)"),
        (("method=gptq,rtn", "rtn"), "A (method=gptq,rtn) names 2 runs that differ in method: gptq, rtn"),
        (("bits=4", "rtn"), "A (bits=4) names 2 runs"),
        (("method", "rtn"), "no stored run begins with 'method'"),
        (("x,bits=4", "rtn"), "give FIELD=VALUE"),
        (("gptq",), "required: B"),
    ],
)
def test_a_wrong_request_is_one_line(runs, sides, said):
    assert said in runs.refusal(*sides)


def test_ambiguous_ids_and_settings_behind_different_seeds_are_refused(runs):
    config = json.dumps({"rounding": {"damp_percent": 0.05}, "evaluation": {"num_fewshot": None}})
    runs.add(records.identity(run_id="gptq-b", seed=1, config=config), sampled.perplexity(0.03))
    assert "2 runs begin with 'gptq': gptq-a, gptq-b" in runs.refusal("gptq", "rtn")
    error = runs.refusal("method=gptq", "rtn")
    assert "2 runs that differ in rounding.damp_percent: 0.01, 0.05; add rounding.damp_percent=0.01" in error


def test_runs_with_nothing_in_common_are_refused(runs):
    runs.add(records.identity(run_id="tasks", method="awq"), sampled.accuracy(range(3), task="sums"))
    assert "A was measured by acc on sums, B by perplexity on text" in runs.refusal("tasks", "gptq")
