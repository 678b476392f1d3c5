"""A store sent to W&B afterwards, read back from the offline runs' own files."""

import pandas as pd
import pytest

from quantbench.__main__ import main
from quantbench.errors import InputError
from quantbench.layers import LayerError, layer_measurements
from quantbench.store.parquet import Store
from quantbench.store.wandb_client import Wandb
from quantbench.store.wandb_sync import sync
from tests.store import records
from tests.store.readback import offline_runs, read_back, read_run

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    yield
    wandb.teardown()  # which forgets the credentials that a test made up


@pytest.fixture
def results(tmp_path):
    """Two runs of one sweep and one that stands alone."""
    store = Store(tmp_path / "out")
    sweep = '{"logger": {"wandb": {"group": "sweep 1"}}}'
    store.write(records.identity(run_id="a1", config=sweep), records.with_samples())
    store.write(records.identity(run_id="a2", config=sweep, bits=3, bits_per_weight=3.5), records.with_samples(0.5))
    store.write(records.identity(run_id="a3", method="rtn", rounding="rtn"), records.with_samples(0.25))
    return tmp_path / "out"


def no_figures(_):
    return {}


def test_every_run_is_sent_under_its_own_id_with_its_samples_in_its_group(results):
    sync(results, Wandb(), figures=no_figures)
    runs = {run.id: run for run in map(read_run, offline_runs(results))}
    frame = Store(results).load().set_index(["run_id", "metric"])
    for run_id in ("a1", "a2", "a3"):
        assert runs[run_id].summary["perplexity/text"] == frame.value[run_id, "perplexity"]
        assert [row[1] for row in runs[run_id].tables["samples/acc/facts"]] == [1.0, 0.0, 1.0, 1.0]
    assert {run_id: runs[run_id].group for run_id in ("a1", "a2", "a3")} == {
        "a1": "sweep 1",
        "a2": "sweep 1",
        "a3": "out",
    }


def test_errors_of_layers_become_a_history_over_the_blocks(results):
    errors = {f"model.layers.{block}.mlp.up_proj": LayerError(0.1 + block, 0.2 + block, 8) for block in range(3)}
    store = Store(results)
    store.write(records.identity(run_id="a4"), [*records.with_samples(), *layer_measurements(errors, errors)])
    sync(results, Wandb(), figures=no_figures)
    run = next(run for run in map(read_run, offline_runs(results)) if run.id == "a4")
    steps = [step for step in run.history if "block" in step]
    for metric, first in (("weight_error", 0.1), ("output_error", 0.2)):
        assert [step[f"layers/{metric}/mlp/up_proj"] for step in steps] == [first, first + 1, first + 2]


def test_a_group_has_a_run_that_compares_its_runs(results):
    sync(results, Wandb(), figures=no_figures)
    comparisons = [run for run in map(read_run, offline_runs(results)) if run.id.startswith("comparison-")]
    rows = {run.group: run.tables["comparison"] for run in comparisons}
    assert {group: sorted({row[-1] for row in table}) for group, table in rows.items()} == {
        "sweep 1": ["a1", "a2"],
        "out": ["a3"],
    }
    frame = Store(results).load()
    stored = frame[frame.run_id == "a3"][["method", "bits", "value"]].values.tolist()
    assert [[row[0], row[2], row[11]] for row in rows["out"]] == stored


def test_what_was_sent_is_not_sent_again_until_it_changes(results):
    assert len(sync(results, Wandb(), figures=no_figures).sent) == 3
    repeated = sync(results, Wandb(), figures=no_figures)
    assert (len(repeated.sent), len(repeated.comparisons), repeated.known) == (0, 0, 3)
    Store(results).write(records.identity(run_id="a3", created="2026-02-02T00:00:00+00:00"), records.with_samples(1.0))
    changed = sync(results, Wandb(), figures=no_figures)
    assert (len(changed.sent), len(changed.comparisons), changed.known) == (1, 1, 2)
    assert len(sync(results, Wandb(group="mine"), figures=no_figures).sent) == 3
    assert len(sync(results, Wandb(group="mine"), figures=no_figures, again=True).sent) == 3


def test_what_was_written_offline_is_sent_once_there_is_a_connection(results, monkeypatch):
    sync(results, Wandb(), figures=no_figures)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    asked = []

    def unreachable(*, mode, **options):
        asked.append((mode, options["id"], options["resume"]))
        raise OSError("no such host")

    monkeypatch.setattr(wandb, "init", unreachable)
    with pytest.raises(InputError, match="W&B: no such host; 0 runs were sent, repeat the command later"):
        sync(results, Wandb(), figures=no_figures)
    assert asked == [("online", "a1", "allow")]  # and not, for every run, the wait for a connection


def test_a_compacted_store_is_sent_whole(results):
    Store(results).compact()
    assert not list((results / "runs").glob("*.parquet"))
    done = sync(results, Wandb(), figures=no_figures)
    assert (len(done.sent), done.problems) == (3, [])
    run = next(run for run in map(read_run, offline_runs(results)) if run.id == "a2")
    assert [row[1] for row in run.tables["samples/acc/facts"]] == [1.0, 0.0, 1.0, 1.0]


def test_samples_that_are_gone_are_said_and_cost_only_themselves(results):
    (results / "samples" / "a1.parquet").unlink()
    done = sync(results, Wandb(), figures=no_figures)
    assert len(done.sent) == 3
    assert len(done.problems) == 1
    assert "a1.parquet" in done.problems[0]


def test_the_verb_sends_tables_and_figures_and_says_where(results, capsys):
    assert main(["wandb-sync", str(results), "--group", "paper", "--mode", "offline"]) == 0
    printed = capsys.readouterr().out
    assert "3 runs and 1 comparisons sent, 0 runs were there already" in printed
    assert "upload with: wandb sync" in printed
    (comparison,) = [run for run in map(read_run, offline_runs(results)) if run.id.startswith("comparison-")]
    assert comparison.group == "paper"
    assert {"figure/pareto", "figure/time"} <= set(comparison.images)
    assert main(["wandb-sync", str(results), "--group", "paper", "--mode", "offline"]) == 0
    assert "0 runs and 0 comparisons sent, 3 runs were there already" in capsys.readouterr().out


def test_the_comparison_shows_the_errors_of_the_layers_at_each_width(results):
    errors = {f"model.layers.{block}.mlp.up_proj": LayerError(0.1 + block, 0.2 + block, 8) for block in range(3)}
    for run_id, changes in (("a4", {"bits": 3}), ("a5", {"bits": 4, "method": "awq", "transform": "awq"})):
        measured = [*records.with_samples(), *layer_measurements(errors, errors)]
        Store(results).write(records.identity(run_id=run_id, **changes), measured)
    assert main(["wandb-sync", str(results), "--group", "paper", "--mode", "offline"]) == 0
    (comparison,) = [run for run in map(read_run, offline_runs(results)) if run.id.startswith("comparison-")]
    assert {name for name in comparison.images if "layers" in name} == {
        f"figure/layers-{metric}-{bits}-bits" for metric in ("weight_error", "output_error") for bits in (3, 4)
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "no results at nowhere"), (["--project", ""], "--project is empty"), (["--mode", "on"], "--mode")],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
    assert main(["wandb-sync", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_run_time_and_later_copies_are_the_same_run(results):
    """So that a run that was logged when it ended and is synchronised later is one run in W&B."""
    from quantbench.store.wandb_log import Logger, log_run

    store = Store(results)
    identity, measurements = store.read("a1")
    log_run(identity, measurements, paths=store.paths("a1"), cfg=Logger(), results_dir=results)
    (log,) = offline_runs(results)
    assert read_run(log).id == "a1"
    assert pd.notna(read_back(results)[1]["perplexity/text"])
