"""One W&B run, opened online or offline, filled and closed; nothing of the machine or the environment is sent."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass
class Wandb:
    """Where W&B runs go; ``auto`` is online with credentials (``wandb login``), otherwise offline.

    group: what runs stand under together; a sweep without one is its own group.
    """

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


@dataclass(frozen=True)
class Sent:
    """Where a run went: online, or offline and why; place: its address or its folder."""

    online: bool
    reason: str
    place: str

    @property
    def line(self) -> str:
        """One line for the user."""
        if self.online:
            return f"W&B: {self.place}"
        return f"W&B: offline ({self.reason}); upload with: wandb sync {self.place}"


def send(
    cfg: Wandb,
    results_dir: Path,
    fill: Callable[[Any, Any], None],
    *,
    id: str,
    fall_back: bool = True,
    **options: Any,
) -> Sent:
    """Open the run ``id`` below ``results_dir/wandb``, let ``fill(wandb, run)`` write it, and close it.

    A run of this id that is already there is continued. A W&B sweep agent has chosen the id of the run that it started,
    and keeps it. Without a connection the run is written offline, or with fall_back=False not at all.
    """
    import wandb

    with _data_folder(results_dir / "wandb" / "staging"):
        online, reason = goes_online(cfg.mode)
        options |= {
            "project": cfg.project,
            "entity": cfg.entity,
            "tags": list(cfg.tags),
            "dir": str(results_dir),
            "settings": _quiet(),
            "id": os.environ.get("WANDB_RUN_ID", id),
        }
        try:
            # offline there is nothing to continue from; what is uploaded later joins the run of its id
            run = wandb.init(mode="online" if online else "offline", resume="allow" if online else None, **options)
        except Exception as error:
            if not online or not fall_back:
                raise
            online, reason = False, f"no connection: {one_line(error)}; logger.wandb.mode=offline saves the wait"
            run = wandb.init(mode="offline", **options)
        with run:
            fill(wandb, run)
            where, folder = run.url, Path(run.dir).parent
        return Sent(online, reason, str(where if online else folder))


def wait_for_files() -> None:
    """Return when the files of offline runs are complete, which they need not be when a run is closed."""
    import wandb

    if wandb.run is None:
        wandb.teardown()


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


def _quiet() -> Any:
    """The settings above, as far as this version of the library knows them."""
    import wandb

    return wandb.Settings(**{key: value for key, value in _SETTINGS.items() if key in wandb.Settings.model_fields})


def goes_online(mode: str) -> tuple[bool, str]:
    """Whether to go online, and if not, why not. WANDB_MODE=offline is respected where the mode is auto."""
    import wandb

    wandb.setup(settings=_quiet())
    if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")):
        return False, "as asked"
    return bool(wandb.api.api_key), "not logged in"


def one_line(error: BaseException) -> str:
    """What went wrong, short."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
