"""What goes wrong in a sweep costs the run it belongs to and no other, and is told of the right one."""

import gc
import itertools
import json
import weakref

import pytest
import torch

import quantbench.run
from quantbench.errors import InputError, QuantizationError
from quantbench.models.memory import MemoryPlan
from quantbench.recording import Recorded
from quantbench.session import Session
from quantbench.store.parquet import Store
from quantbench.sweep import run_sweep

quantize_each = quantbench.run.quantize_each


def measured(folder):
    """Metric values of every stored run."""
    frame = Store(folder).load()
    return {run: dict(zip(rows.metric, rows.value, strict=True)) for run, rows in frame.groupby("run_id")}


def walk_together(monkeypatch, fail):
    """Have ``fail(variants, outcomes)`` spoil every walk of several variants; returns the sizes of all walks."""
    sizes = []

    def walk(model, structure, variants, *arguments, **options):
        sizes.append(len(variants))
        outcomes = quantize_each(model, structure, variants, *arguments, **options)
        return fail(outcomes) if len(variants) > 1 else outcomes

    monkeypatch.setattr(quantbench.run, "quantize_each", walk)
    return sizes


def out_of_memory(outcomes):
    raise torch.OutOfMemoryError("CUDA out of memory")


def second_out_of_memory(outcomes):
    return [outcomes[0], MemoryError("too much"), *outcomes[2:]]


def broken(outcomes):
    raise RuntimeError("a bug in what the variants share")


@pytest.mark.parametrize(
    ("fail", "walks"), [(out_of_memory, [3, 1, 1, 1]), (second_out_of_memory, [3, 1]), (broken, [3, 1, 1, 1])]
)
def test_runs_that_cannot_share_a_walk_are_done_alone_as_if_nothing_had_been(runs, tmp_path, monkeypatch, fail, walks):
    sweep = ["method=rtn,gptq,awq", "bits=3"]
    run_sweep(runs(*sweep, store="undisturbed"), Session())
    sizes = walk_together(monkeypatch, fail)
    outcomes = run_sweep(runs(*sweep), Session())
    assert all(isinstance(outcome, Recorded) for outcome in outcomes)
    assert sizes == walks
    assert measured(tmp_path) == measured(tmp_path / "undisturbed")
    assert Store(tmp_path).failures() == []


def test_memory_that_does_not_suffice_for_a_run_alone_is_its_failure(runs, tmp_path, monkeypatch):
    def walk(model, structure, variants, *arguments, **options):
        raise MemoryError("too much")

    monkeypatch.setattr(quantbench.run, "quantize_each", walk)
    outcomes = run_sweep(runs("method=rtn,mse", "bits=3"), Session())
    assert [type(outcome) for outcome in outcomes] == [QuantizationError] * 2
    assert {failure.reason for failure in Store(tmp_path).failures()} == {"out of memory on cpu: too much"}


def test_each_part_of_a_split_group_is_recorded_with_its_own_seconds(runs, tmp_path, monkeypatch):
    def split(structure, variants, *arguments, **options):
        full = quantbench.models.memory.plan_memory(structure, variants, *arguments, **options)
        return MemoryPlan([[0], [1], [2]], full.needed, full.free)

    ticks = itertools.count(step=10.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))  # so a walk takes as long as it is complicated
    monkeypatch.setattr(quantbench.run, "plan_memory", split)
    run_sweep(runs("method=rtn,mse,hqq", "bits=3"), Session())
    seconds = [json.loads(text)["quantize"] for text in Store(tmp_path).load().drop_duplicates("run_id").seconds]
    assert len(seconds) == 3
    assert len(set(seconds)) == 1


def test_runs_that_a_model_cannot_take_are_each_told_why(runs, tmp_path):
    outcomes = run_sweep(runs("method=rtn", "allocation.skip=[nothing],[nowhere]"), Session())
    said = [str(outcome).split(":")[0] for outcome in outcomes]
    assert said == ["allocation.skip=nothing", "allocation.skip=nowhere"]
    kept = {failure.config["allocation"]["skip"][0]: failure.reason for failure in Store(tmp_path).failures()}
    assert all(f"allocation.skip={pattern}:" in reason for pattern, reason in kept.items())
    assert len(kept) == 2


def test_what_a_failed_evaluation_held_is_freed_while_the_sweep_goes_on(runs, monkeypatch):
    held = []
    measure = quantbench.run.measure

    def fail_first(prepared, base, model=None):
        if held:
            gc.collect()
            assert held[0]() is None, "the failed run's tensors are still there when the next one begins"
            return measure(prepared, base, model)
        logits = torch.zeros(3)
        held.append(weakref.ref(logits))
        raise torch.OutOfMemoryError(f"no room for {len(logits)} more")

    monkeypatch.setattr(quantbench.run, "measure", fail_first)
    first, second = run_sweep(runs("method=rtn,mse", "bits=3"), Session())
    assert str(first) == "out of memory on cpu: no room for 3 more"
    assert isinstance(second, Recorded)


def test_the_model_is_in_full_precision_again_after_a_failed_evaluation(runs, tmp_path, monkeypatch):
    sweep = ["method=rtn,mse", "bits=2"]
    run_sweep(runs(*sweep, store="undisturbed"), Session())
    measure, calls = quantbench.run.measure, []

    def fail_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return measure(*arguments)

    monkeypatch.setattr(quantbench.run, "measure", fail_first)
    first, second = run_sweep(runs(*sweep), Session())
    assert isinstance(first, RuntimeError)
    identifier = second.identity.run_id
    assert measured(tmp_path)[identifier] == measured(tmp_path / "undisturbed")[identifier]


def test_a_store_that_takes_no_claims_is_one_line_a_run(runs, tmp_path, capfd):
    (tmp_path / "running").write_text("a file where the folder should be")
    outcomes = run_sweep(runs("method=rtn,mse", "bits=3"), Session())
    assert [type(outcome) for outcome in outcomes] == [InputError] * 2
    assert all("cannot claim run" in str(outcome) for outcome in outcomes)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 2
