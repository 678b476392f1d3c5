import sys

import pytest

from quantbench.curves import curve_measurements
from quantbench.layers import LayerError, layer_measurements
from quantbench.store.parquet import Store
from quantbench.store.wandb_log import Logger, Wandb, log_run
from tests.store import records
from tests.store.readback import offline_runs, read_back, read_run

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def stored(tmp_path):
    measurements = records.with_samples()
    return records.identity(), measurements, Store(tmp_path).write(records.identity(), measurements)


def _log(stored, tmp_path, **options) -> str:
    identity, measurements, paths = stored
    return log_run(identity, measurements, paths=paths, cfg=Logger(Wandb(**options)), results_dir=tmp_path)


def test_an_offline_run_holds_the_numbers_of_the_parquet(stored, tmp_path):
    line = _log(stored, tmp_path)
    assert line.startswith("W&B: offline (not logged in); upload with: wandb sync ")
    config, summary, tables = read_back(tmp_path)
    frame, samples = Store(tmp_path).load(), Store(tmp_path).samples("a1")
    for row in frame.itertuples():
        assert summary[f"{row.metric}/{row.task}"] == row.value
    assert summary["perplexity/text/ci_low"] == frame["ci_low"][0]
    assert summary["perplexity/text/baseline"] == 10.0
    assert [row[2] for row in tables["records"]] == frame["value"].tolist()
    for (metric, task), part in samples.groupby(["metric", "task"]):
        rows = tables[f"samples/{metric}/{task}"]
        assert [row[:3] for row in rows] == part[["key", "value", "weight"]].values.tolist()
    assert config["bits"] == 4
    assert config["config"] == {"rounding": {"damp_percent": 0.01}, "evaluation": {"num_fewshot": None}}


def test_errors_of_layers_are_histories_over_the_blocks_with_the_experts_averaged(tmp_path):
    kinds = {"self_attn.q_proj": 1.0, "mlp.experts.0.up_proj": 2.0, "mlp.experts.1.up_proj": 4.0}
    errors = {
        f"model.layers.{block}.{kind}": LayerError(factor * (1 + block), factor if block else None, 8)
        for block in range(3)
        for kind, factor in kinds.items()
    }
    measurements = [records.perplexity(11.0), *layer_measurements(errors, errors)]
    stored = (records.identity(), measurements, Store(tmp_path).write(records.identity(), measurements))
    assert _log(stored, tmp_path).startswith("W&B: offline")
    run = read_run(*offline_runs(tmp_path))
    steps = [step for step in run.history if "block" in step]
    assert [step["block"] for step in steps] == [0, 1, 2]
    assert [step["layers/weight_error/self_attn/q_proj"] for step in steps] == [1, 2, 3]
    assert [step["layers/weight_error/mlp/experts/up_proj"] for step in steps] == [3, 6, 9]
    assert [step.get("layers/output_error/mlp/experts/up_proj") for step in steps] == [None, 3, 3]
    assert run.steps["layers/*"] == "block"
    assert run.summary["weight_error/layers"] == measurements[1].value
    assert [row[0] for row in run.tables["samples/weight_error/layers"]] == list(errors)


def test_a_loss_curve_is_a_history_over_the_steps_of_training(tmp_path):
    measurements = [records.perplexity(11.0), *curve_measurements([3.0, 2.0, 1.5])]
    stored = (records.identity(), measurements, Store(tmp_path).write(records.identity(), measurements))
    assert _log(stored, tmp_path).startswith("W&B: offline")
    run = read_run(*offline_runs(tmp_path))
    steps = [(step["train/step"], step["train/loss"]) for step in run.history if "train/step" in step]
    assert steps == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert run.steps["train/*"] == "train/step"
    assert run.summary["train_loss/training"] == 1.5


def test_nothing_of_the_environment_reaches_the_files(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k3y" * 14)
    monkeypatch.setenv("HF_TOKEN", "t0ken" * 8)
    assert "offline (as asked)" in _log(stored, tmp_path, mode="offline")
    files = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert b"k3yk3y" not in content
        assert b"t0kent0ken" not in content


def test_numbers_that_are_not_finite_do_not_cost_the_log(tmp_path):
    measurements = [records.perplexity(float("inf"), ci_low=None, ci_high=float("nan"))]
    stored = (records.identity(), measurements, Store(tmp_path).write(records.identity(), measurements))
    assert _log(stored, tmp_path).startswith("W&B: offline")


def test_disabled_writes_nothing_and_says_nothing(stored, tmp_path):
    assert _log(stored, tmp_path, mode="disabled") == ""
    assert not (tmp_path / "wandb").exists()


def test_no_connection_falls_back_to_an_offline_run(stored, tmp_path, monkeypatch):
    init = wandb.init

    def unreachable(*, mode, **options):
        if mode == "online":
            raise OSError("no such host\n(second line)")
        return init(mode=mode, **options)

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb, "init", unreachable)
    line = _log(stored, tmp_path, mode="online")
    assert line.startswith("W&B: offline (no connection: no such host (second line); ")
    assert "\n" not in line
    assert read_back(tmp_path)[1]["acc/facts"] == 0.75


@pytest.mark.parametrize("failure", ["import", "init"])
def test_any_failure_is_one_line_and_never_an_exception(stored, tmp_path, monkeypatch, failure):
    def broken(**_):
        raise RuntimeError("service\ncrashed")

    if failure == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        monkeypatch.setattr(wandb, "init", broken)
    line = _log(stored, tmp_path)
    assert line.startswith("warning: W&B logging failed (")
    assert "\n" not in line
    assert Store(tmp_path).read("a1")[1] == stored[1]


@pytest.mark.parametrize("options", [{"mode": "on"}, {"project": ""}], ids=["mode", "project"])
def test_a_wrong_setting_names_field_and_allowed_values(options):
    with pytest.raises(ValueError, match=f"logger.wandb.{next(iter(options))}"):
        Wandb(**options)
