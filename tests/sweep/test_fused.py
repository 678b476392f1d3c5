"""A run of a sweep is what it would have been alone: weights of every preset, whole records through the launcher."""

import json

import pytest
import torch

from quantbench.__main__ import main
from quantbench.config import check_command_line, conf_dir
from quantbench.models.canonical import canonicalise_
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from quantbench.run import run
from quantbench.session import Session
from quantbench.store.parquet import Store
from quantbench.sweep import run_sweep
from tests.models import tiny

QUICK = {"autoround": ["rounding.iterations=2"], "omniquant": ["rounding.epochs=1"], "os_plus": ["transform.steps=3"]}
QUICK |= {"flatquant": ["rounding.epochs=1"]}
PRESETS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml") if path.stem != "fp16")


@pytest.fixture(scope="module")
def model():
    """Rows long enough for every format's superblocks."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
    built = tiny.build("llama", **sizes)
    canonicalise_(built)
    return built


def preset(name):
    quick = next((changes for start, changes in QUICK.items() if name.startswith(start)), [])
    return check_command_line([f"method={name}", *quick], multirun=False)[0].variant()


@pytest.mark.parametrize("names", [PRESETS[0::4], PRESETS[1::4], PRESETS[2::4], PRESETS[3::4]], ids="abcd")
def test_weights_of_every_preset_are_those_of_a_walk_of_its_own(model, names):
    structure, ids = find_structure(model), tiny.token_ids(4, 16)
    variants = [preset(name) for name in names]
    together = quantize(model, structure, variants, ids, device=torch.device("cpu"))
    for name, variant, fused in zip(names, variants, together, strict=True):
        alone = quantize(model, structure, [variant], ids, device=torch.device("cpu"))[0]
        assert alone.notes == fused.notes, name
        assert alone.layers == fused.layers, name
        assert alone.inputs == fused.inputs, name
        assert alone.weights.keys() == fused.weights.keys(), name
        for linear, weight in alone.weights.items():
            packed, other = weight.pack().tensors, fused.weights[linear].pack().tensors
            assert packed.keys() == other.keys(), (name, linear)
            assert all(torch.equal(tensor, other[key]) for key, tensor in packed.items()), (name, linear)
        assert alone.online.keys() == fused.online.keys(), name
        for linear, module in alone.online.items():
            assert all(torch.equal(t, fused.online[linear].get_buffer(key)) for key, t in module.named_buffers()), name
        assert alone.parameters.keys() == fused.parameters.keys(), name
        assert all(torch.equal(value, fused.parameters[key]) for key, value in alone.parameters.items()), name


def records(folder):
    """Rows and samples of every run, without what differs from time to time."""
    store = Store(folder)
    frame = store.load().drop(columns=["seconds", "peak_memory", "created", "config"])
    samples = {run: store.samples(run).to_csv() for run in frame.run_id.unique()}
    return frame.sort_values(["run_id", "metric"]).to_csv(index=False), samples


def test_records_of_a_sweep_are_those_of_single_runs(runs, tmp_path, caplog):
    sweep = ["method=fp16,rtn,gptq,awq,hqq,hadamard_gptq,gptaq", "bits=3"]
    with caplog.at_level("INFO"):
        run_sweep(runs(*sweep, store="together"), Session())
    assert "sweep of 7 runs: 0 stored, 7 to do" in caplog.text
    assert "5 variants in 1 walk(s)" in caplog.text
    assert "to compare them: python -m quantbench report" in caplog.text
    for config, label in runs(*sweep, store="alone"):
        run(config, label, Session())
    assert records(tmp_path / "together") == records(tmp_path / "alone")


def test_a_sweep_goes_on_where_another_stopped_and_does_equal_runs_once(files, tmp_path, capfd):
    sweep = ["-m", *files, f"results_dir={tmp_path}"]
    assert main([*sweep, "method=fp16,rtn", "bits=3"]) == 0
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    capfd.readouterr()
    assert main([*sweep, "method=fp16,rtn", "bits=3,4"]) == 0
    assert "sweep of 3 runs: 2 stored, 1 to do" in capfd.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert all(path.stat().st_mtime_ns == written for path, written in first.items())


def test_a_run_that_fails_is_kept_with_its_reason_and_the_others_of_its_walk_are_stored(runs, tmp_path, capfd):
    impossible = ["method=rtn", "allocation=mixed", "allocation.candidates=[3,4]", "allocation.budget=1"]
    sweep = [*runs("method=gptq"), *runs(*impossible), *runs("method=awq")]
    outcomes = run_sweep(sweep, Session())
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert capfd.readouterr().err.count(f"error: {outcomes[1]}\n") == 1
    store = Store(tmp_path)
    assert set(store.load().method) == {"gptq", "awq"}
    (failure,) = store.failures()
    assert (failure.config["allocation"]["budget"], failure.stage) == (1, "quantize")
    assert failure.reason == str(outcomes[1])
    assert store.claims.owners() == []


def test_shared_seconds_are_stated(runs, tmp_path):
    run_sweep(runs("method=gptq", "stats=fp", "bits=3,4"), Session())
    for seconds in map(json.loads, Store(tmp_path).load().seconds):
        assert 0 < seconds["quantize_shared"] < seconds["quantize"]
