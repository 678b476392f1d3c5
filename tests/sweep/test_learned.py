"""A rotation is learned once for all runs of a process that share what it depends on, and the record says so."""

import pytest

from quantbench.models import spin
from quantbench.session import Session
from quantbench.store.parquet import Store
from quantbench.sweep import run_sweep


def test_a_rotation_is_learned_once_in_a_process_and_noted(runs, tmp_path, monkeypatch):
    learned, batches = [], spin._batches
    monkeypatch.setattr(spin, "_batches", lambda *given: learned.append(1) or batches(*given))
    sweep, session = ["method=spinquant", "kv_cache=none", "transform.steps=2", "transform.batch_size=2"], Session()
    run_sweep(runs(*sweep, "rounding=rtn,gptq", "activation=int4_token,int8_token"), session)
    assert len(learned) == 2, "one for each kind of input"
    run_sweep(runs(*sweep, "rounding=rtn", "bits=3", "activation=int8_token"), session)
    assert len(learned) == 2
    frame = Store(tmp_path).load().drop_duplicates("run_id")
    assert len(frame) == 5
    assert all("rotation learned in 2 steps: loss " in notes for notes in frame.notes)
    assert set(frame["transform"]) == {"spinquant"}


@pytest.mark.parametrize("method", ["quarot_rtn", "mr_gptq", "flatquant"])
def test_methods_that_change_inputs_online_are_scored_and_recorded(method, runs, tmp_path):
    quick = {"flatquant": ["rounding.epochs=1"], "mr_gptq": ["group_size=32", "transform.block_size=16"]}
    group = [] if method == "mr_gptq" else ["group_size=-1"]
    run_sweep(runs(f"method={method}", *group, *quick.get(method, [])), Session())
    frame = Store(tmp_path).load()
    rows = frame[frame.metric == "perplexity"]
    assert len(rows) == 1
    assert (rows.value > 0).all()
    assert set(frame.activation_bits) == {4}
