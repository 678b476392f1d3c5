"""The copy of a run in Weights & Biases: configuration, summary and tables, online or offline."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench.measurement import Measurement

if TYPE_CHECKING:
    from quantbench.store.parquet import RunPaths
    from quantbench.store.record import RunIdentity

MODES = ("auto", "online", "offline", "disabled")

# Only what the record holds is sent: no console, no machine or code snooping. It also starts faster.
_SETTINGS = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": 10,
    "finish_timeout": 120,
}
_TABLE_COLUMNS = ("metric", "task", "value", "unit", "stderr", "ci_low", "ci_high", "count", "baseline")


@dataclass
class Wandb:
    """Where W&B runs go; ``auto`` is online with credentials (``wandb login``), otherwise offline."""

    mode: str = "auto"
    project: str = "quantbench"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"logger.wandb.mode={self.mode!r}: allowed values are {', '.join(MODES)}")
        if not self.project:
            raise ValueError("logger.wandb.project is empty: a project name is needed")


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
        with _data_folder(Path(results_dir) / "wandb" / "staging"):
            return _log(identity, measurements, paths, cfg.wandb, Path(results_dir))
    except (Exception, SystemExit) as error:
        return f"warning: W&B logging failed ({_one_line(error)}); the results are in {paths.run}"


@contextmanager
def _data_folder(folder: Path) -> Iterator[None]:
    """Keep tables that wait for upload with the run: W&B's own choice is the home folder, and has no setting."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _log(
    identity: "RunIdentity", measurements: Sequence[Measurement], paths: "RunPaths", cfg: Wandb, results_dir: Path
) -> str:
    import wandb

    settings = wandb.Settings(**{key: value for key, value in _SETTINGS.items() if key in wandb.Settings.model_fields})
    wandb.setup(settings=settings)
    online, reason = _choose(cfg.mode, logged_in=bool(wandb.api.api_key))
    options = {
        "project": cfg.project,
        "entity": cfg.entity,
        "group": cfg.group,
        "tags": list(cfg.tags),
        "name": " ".join(filter(None, (identity.method, identity.variant, identity.model, identity.run_id))),
        "config": _config(identity, paths),
        "dir": str(results_dir),
        "settings": settings,
    }
    try:
        run = wandb.init(mode="online" if online else "offline", **options)
    except Exception as error:
        if not online:
            raise
        online, reason = False, f"no connection: {_one_line(error)}; logger.wandb.mode=offline saves the wait"
        run = wandb.init(mode="offline", **options)
    with run:
        run.summary.update(_summary(measurements))
        run.log(_tables(wandb, measurements))
        where, folder = run.url, Path(run.dir).parent
    if wandb.run is None:
        # finish() returns before an offline run's file is complete; this waits for it.
        wandb.teardown()
    if online:
        return f"W&B: {where}"
    return f"W&B: offline ({reason}); upload with: wandb sync {folder}"


def _choose(mode: str, *, logged_in: bool) -> tuple[bool, str]:
    """Whether to go online, and if not, why not. WANDB_MODE=offline is respected where the mode is auto."""
    if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")):
        return False, "as asked"
    return logged_in, "not logged in"


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
    rows = [[_cell(getattr(item, name)) for name in _TABLE_COLUMNS] for item in measurements]
    tables = {"records": wandb.Table(columns=list(_TABLE_COLUMNS), data=rows)}
    for item in measurements:
        if item.samples is None:
            continue
        samples = item.samples
        baseline = [None] * len(samples.keys) if samples.baseline is None else samples.baseline.tolist()
        columns = zip(samples.keys, samples.values.tolist(), samples.weights.tolist(), baseline, strict=True)
        tables[f"samples/{item.metric}/{item.task}"] = wandb.Table(
            columns=["key", "value", "weight", "baseline"],
            data=[[_cell(value) for value in row] for row in columns],
            allow_mixed_types=True,
        )
    return tables


def _cell(value: object) -> object:
    """W&B tables take no NaN or infinity in a numeric column; None shows as missing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
