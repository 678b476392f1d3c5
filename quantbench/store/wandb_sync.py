"""Sending a whole store to W&B later: every run under its own id, and a run that compares them for each group."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantbench.errors import InputError
from quantbench.measurement import Measurement, Samples
from quantbench.store.parquet import Store
from quantbench.store.wandb_client import Sent, Wandb, goes_online, one_line, send, wait_for_files
from quantbench.store.wandb_log import cell, send_run

if TYPE_CHECKING:
    import pandas as pd

    from quantbench.store.record import RunIdentity

_COMPARED = (
    *("method", "variant", "bits", "group_size", "bits_per_weight", "statistics", "seed", "model", "protocol"),
    *("metric", "task", "value", "unit", "stderr", "ci_low", "ci_high", "count", "baseline", "run_id"),
)
_ID_DIGITS = 12


Figures = Callable[["pd.DataFrame"], Mapping[str, Path]]


@dataclass
class Synced:
    """What a synchronisation did: runs and comparisons sent, runs that were there already, and what went wrong."""

    sent: list[Sent] = field(default_factory=list)
    comparisons: list[Sent] = field(default_factory=list)
    known: int = 0
    problems: list[str] = field(default_factory=list)


def sync(results_dir: Path, cfg: Wandb, *, figures: Figures, again: bool = False) -> Synced:
    """Send what W&B does not have yet; ``again``: everything.

    A run stands in ``cfg.group``, or in the group it recorded, or in one named after the folder. figures: draws a
    group's rows, and returns PNG files by name.

    Raises:
        InputError: no stored run, or no connection.
    """
    store, done = Store(results_dir), Synced()
    frame = store.load()
    ledger = _Ledger(results_dir / "wandb" / "sent" / f"{cfg.entity or 'default'}-{cfg.project}", cfg, again=again)
    groups: dict[str, list[str]] = {}
    try:
        for run_id in dict.fromkeys(frame.run_id):
            identity, measurements = store.read(run_id)
            group = cfg.group or _recorded_group(identity) or results_dir.absolute().name
            groups.setdefault(group, []).append(run_id)
            content = f"{identity.created} {group}"
            if ledger.has(run_id, content):
                done.known += 1
                continue
            measurements = _with_samples(measurements, store, run_id, done.problems)
            paths = store.paths(run_id)
            sent = send_run(identity, measurements, paths, cfg, results_dir, group=group, fall_back=False)
            ledger.write(run_id, content, sent)
            done.sent.append(sent)
        for group, ids in groups.items():
            rows = frame[frame.run_id.isin(ids)]
            content, identifier = _digest(rows.to_json()), f"comparison-{_digest(group)}"
            if not ledger.has(identifier, content):
                sent = _send_comparison(rows, group, identifier, cfg, results_dir, figures)
                ledger.write(identifier, content, sent)
                done.comparisons.append(sent)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"W&B: {one_line(error)}; {len(done.sent)} runs were sent, repeat the command later"
        ) from error
    finally:
        if done.sent or done.comparisons:
            wait_for_files()
    return done


def _send_comparison(
    rows: "pd.DataFrame", group: str, identifier: str, cfg: Wandb, results_dir: Path, figures: Figures
) -> Sent:
    table = rows[list(_COMPARED)].astype(object)
    data = [[cell(value) for value in row] for row in table.where(table.notna(), None).to_numpy().tolist()]

    def fill(wandb: Any, run: Any) -> None:
        logged = {"comparison": wandb.Table(columns=list(_COMPARED), data=data, allow_mixed_types=True)}
        logged |= {f"figure/{name}": wandb.Image(str(path)) for name, path in figures(rows).items()}
        run.log(logged)

    tagged = replace(cfg, tags=[*cfg.tags, "comparison"])
    options = {"name": f"{group}: comparison", "group": group, "job_type": "comparison"}
    return send(tagged, results_dir, fill, id=identifier, fall_back=False, **options)


def _recorded_group(identity: "RunIdentity") -> str | None:
    logger = json.loads(identity.config).get("logger", {})
    group: str | None = logger.get("wandb", {}).get("group")
    return group


def _with_samples(measurements: list[Measurement], store: Store, run_id: str, problems: list[str]) -> list[Measurement]:
    """The measurements with the samples that lie in a file of their own; without, where that is damaged."""
    try:
        parts = dict(list(store.samples(run_id).groupby(["metric", "task"], sort=False)))
    except InputError as error:
        problems.append(f"sent without its samples: {error}")
        return measurements
    return [
        replace(item, samples=_samples(parts[item.metric, item.task])) if (item.metric, item.task) in parts else item
        for item in measurements
    ]


def _samples(part: "pd.DataFrame") -> Samples:
    part = part.sort_values("index")
    baseline = None if part.baseline.isna().all() else part.baseline.to_numpy(np.float64)
    return Samples(tuple(part.key), part.value.to_numpy(np.float64), part.weight.to_numpy(np.float64), baseline)


class _Ledger:
    """What has been sent, a file a run: W&B appends when a run is sent again, so that this is looked at first."""

    def __init__(self, folder: Path, cfg: Wandb, *, again: bool) -> None:
        self.folder, self.again, self.online = folder, again, goes_online(cfg.mode)[0]

    def has(self, run_id: str, content: str) -> bool:
        """Whether this content is online, or written offline where it would be again."""
        try:
            known = json.loads((self.folder / f"{run_id}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return not self.again and known.get("content") == content and known.get("online") in (True, self.online)

    def write(self, run_id: str, content: str, sent: Sent) -> None:
        """Remember what was sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"content": content, "online": sent.online, "place": sent.place})
        (self.folder / f"{run_id}.json").write_text(text + "\n", encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]
