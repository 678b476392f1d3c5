"""Runs that failed: what failed where and why, one small JSON file a run, never mistaken for a result."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from quantbench.store.files import one_line, prepare_folder, replace, temporary, write_synced
from quantbench.store.record import check_run_id
from quantbench.store.secrets import redacted

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that could not finish, and its identity as far as it was known.

    error: the exception's class; reason: what it said, in one line; stage: what the run was doing; config: the resolved
    configuration; seconds: wall clock by stage until then; created: UTC, ISO 8601.

    Raises:
        ValueError: a run id that cannot be a file name.
    """

    run_id: str
    error: str
    reason: str
    stage: str
    method: str
    variant: str
    bits: int | None
    group_size: int | None
    model: str
    model_revision: str
    device: str
    host: str
    created: str
    config: dict[str, Any]
    seconds: dict[str, float]
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None

    def __post_init__(self) -> None:
        check_run_id(self.run_id)


def write(folder: Path, failure: Failure) -> Path:
    """Keep the failure, instead of an earlier one of the same run."""
    prepare_folder(folder)
    path = folder / f"{failure.run_id}.json"
    content = redacted(json.dumps(asdict(failure), indent=1, sort_keys=True))
    with temporary(path) as new:
        write_synced(new, lambda file: file.write(content.encode()))
        replace(new, path)
    return path


def read_all(folder: Path) -> list[Failure]:
    """The failures kept in the folder; a file that is not one is named in a warning."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(_parse(path))
        except FileNotFoundError:  # the run has succeeded meanwhile
            continue
        except (OSError, ValueError, TypeError) as error:
            _log.warning("warning: skipped %s: not a failure's record (%s)", path, one_line(error))
    return found


def _parse(path: Path) -> Failure:
    content = json.loads(path.read_text(encoding="utf-8"))
    known = {item.name for item in fields(Failure)}
    if not isinstance(content, dict) or content.keys() < known or content["run_id"] != path.stem:
        raise ValueError("fields are missing, or it is of another run")
    return Failure(**{name: content[name] for name in known})
