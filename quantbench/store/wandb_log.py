"""The copy of a run in Weights & Biases: configuration, summary and tables, online or offline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench.curves import TRAIN_LOSS
from quantbench.layers import LAYER_METRICS, block_curves
from quantbench.measurement import Measurement
from quantbench.store.wandb_client import Sent, Wandb, one_line, send, wait_for_files

if TYPE_CHECKING:
    from quantbench.store.parquet import RunPaths
    from quantbench.store.record import RunIdentity

_TABLE_COLUMNS = ("metric", "task", "value", "unit", "stderr", "ci_low", "ci_high", "count", "baseline")


@dataclass
class Logger:
    """Who is told about a run besides the parquet files."""

    wandb: Wandb = field(default_factory=Wandb)


def log_run(
    identity: "RunIdentity",
    measurements: Sequence[Measurement],
    *,
    paths: "RunPaths",
    cfg: Logger,
    results_dir: str | Path,
) -> str:
    """Copy a stored run to W&B, below ``results_dir/wandb``.

    Returns one line that says where it went, or what went wrong; empty when W&B is disabled. Never raises: the parquet
    files are the record, and W&B failing must not cost them or change the exit code.
    """
    if cfg.wandb.mode == "disabled":
        return ""
    try:
        sent = send_run(identity, measurements, paths, cfg.wandb, Path(results_dir), group=cfg.wandb.group)
        wait_for_files()
        return sent.line
    except (Exception, SystemExit) as error:
        return f"warning: W&B logging failed ({one_line(error)}); the results are in {paths.run}"


def send_run(
    identity: "RunIdentity",
    measurements: Sequence[Measurement],
    paths: "RunPaths",
    cfg: Wandb,
    results_dir: Path,
    *,
    group: str | None,
    fall_back: bool = True,
) -> Sent:
    """Send one run under its own id, so that sending it again changes nothing."""

    def fill(wandb: Any, run: Any) -> None:
        run.summary.update(_summary(measurements))
        run.log(_tables(wandb, measurements))
        _log_layers(run, measurements)
        _log_training(run, measurements)

    name = " ".join(filter(None, (identity.method, identity.variant, identity.model, identity.run_id)))
    config = _config(identity, paths)
    return send(cfg, results_dir, fill, id=identity.run_id, fall_back=fall_back, name=name, group=group, config=config)


def _config(identity: "RunIdentity", paths: "RunPaths") -> dict[str, Any]:
    from quantbench.store.record import as_dict

    return as_dict(identity) | {"parquet": str(paths.run), "samples": str(paths.samples)}


def _summary(measurements: Sequence[Measurement]) -> dict[str, float | int]:
    summary: dict[str, float | int] = {}
    for item in measurements:
        name = f"{item.metric}/{item.task}"
        summary[name] = item.value
        for part in ("stderr", "ci_low", "ci_high", "baseline"):
            number = getattr(item, part)
            if number is not None:
                summary[f"{name}/{part}"] = number
    return summary


def _tables(wandb: Any, measurements: Sequence[Measurement]) -> dict[str, Any]:
    rows = [[cell(getattr(item, name)) for name in _TABLE_COLUMNS] for item in measurements]
    tables = {"records": wandb.Table(columns=list(_TABLE_COLUMNS), data=rows)}
    for item in measurements:
        if item.samples is None:
            continue
        samples = item.samples
        baseline = [None] * len(samples.keys) if samples.baseline is None else samples.baseline.tolist()
        columns = zip(samples.keys, samples.values.tolist(), samples.weights.tolist(), baseline, strict=True)
        tables[f"samples/{item.metric}/{item.task}"] = wandb.Table(
            columns=["key", "value", "weight", "baseline"],
            data=[[cell(value) for value in row] for row in columns],
            allow_mixed_types=True,
        )
    return tables


def _log_layers(run: Any, measurements: Sequence[Measurement]) -> None:
    """The errors of single layers as histories over the blocks, one for each kind of linear."""
    steps: dict[int, dict[str, object]] = {}
    for item in measurements:
        if item.metric not in LAYER_METRICS or item.samples is None:
            continue
        curves = block_curves(item.samples.keys, item.samples.values.tolist(), item.samples.weights.tolist())
        for kind, curve in curves.items():
            for block, value in curve.items():
                # W&B reads a dot as a nested key
                steps.setdefault(block, {})[f"layers/{item.metric}/{kind.replace('.', '/')}"] = value
    if steps:
        run.define_metric("block", summary="none")
        run.define_metric("layers/*", step_metric="block", summary="none")
    for block in sorted(steps):
        run.log({"block": block, **steps[block]})


def _log_training(run: Any, measurements: Sequence[Measurement]) -> None:
    """The loss of training as a history over its steps."""
    for item in measurements:
        if item.metric != TRAIN_LOSS or item.samples is None:
            continue
        run.define_metric("train/step", summary="none")
        run.define_metric("train/*", step_metric="train/step", summary="none")
        for step, loss in zip(item.samples.keys, item.samples.values.tolist(), strict=True):
            run.log({"train/step": int(step), "train/loss": loss})


def cell(value: object) -> object:
    """W&B tables take no NaN or infinity in a numeric column; None shows as missing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
