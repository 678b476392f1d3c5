"""``python -m quantbench status``: which runs are done, running, failed and missing."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.store.parquet import Store
from quantbench.study import definition

if TYPE_CHECKING:
    import pandas as pd

STATES = ("done", "running", "failed", "missing")
_METHOD_WIDTH = 44


@dataclass(frozen=True)
class State:
    """One run and how far it is. detail: when it ended, who computes it, or why it failed."""

    state: str
    run_id: str
    run: str
    detail: str


def main(argv: Sequence[str]) -> int:
    """Print the states of a results folder's or a study's runs."""
    parser = ArgumentParser(
        prog="quantbench status",
        description="Done, running, failed and (of a study) missing runs. A sweep given again computes what is missing "
        "or failed.",
    )
    parser.add_argument("target", nargs="?", default="results", help="results folder, or study name or path (results)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as given to the study")
    parser.add_argument("--results", metavar="DIR", help="a study's results folder (results/NAME)")
    parser.add_argument("--all", action="store_true", help="list done runs too")
    parser.add_argument("--json", action="store_true", help="everything, for scripts")
    arguments = parser.parse_intermixed_args(argv)
    root, expected = _target(arguments.target, arguments.results, arguments.overrides)
    states = states_of(Store(root), expected)
    if arguments.json:
        counts = {state: sum(run.state == state for run in states) for state in STATES}
        print(json.dumps({"results": str(root), "counts": counts, "runs": [asdict(run) for run in states]}, indent=1))
    else:
        print("\n".join(_lines(root, states, every=arguments.all, knows_missing=expected is not None)))
    return 0


def _target(given: str, results: str | None, overrides: Sequence[str]) -> tuple[Path, dict[str, str] | None]:
    """The results folder, and the names of the runs that a study expects there."""
    path = Path(given)
    if path.is_dir() and not (path / definition.FILE).is_file():
        if overrides or results:
            raise InputError(f"{given} is a results folder: key=value and --results are for studies")
        return path, None
    study = definition.read(definition.find(given))
    from quantbench.study.expected import expected_runs  # needs torch

    runs = expected_runs(study, overrides)
    return Path(results or Path("results") / study.name), {run.run_id: run.title for run in runs}


def states_of(store: Store, expected: Mapping[str, str] | None = None) -> list[State]:
    """Of the expected runs (id -> name), or of all that the store knows, in that order."""
    done = stored_runs(store)
    running = {owner.run_id: str(owner) for owner in store.claims.owners()}
    failed = {failure.run_id: failure for failure in store.failures()}
    names = dict(expected) if expected is not None else dict.fromkeys([*done, *running, *failed], "")
    states = []
    for run_id, name in names.items():
        if run_id in running:
            states.append(State("running", run_id, name, running[run_id]))
        elif run_id in done:
            row = done[run_id]
            states.append(State("done", run_id, name or row["run"], row["created"]))
        elif run_id in failed:
            found = failed[run_id]
            own = _name(found.method, found.bits, found.variant)
            states.append(State("failed", run_id, name or own, f"{found.error} in {found.stage}: {found.reason}"))
        else:
            states.append(State("missing", run_id, name, ""))
    return states


def stored_runs(store: Store) -> dict[str, dict[str, str]]:
    """Name and end of every stored run."""
    frame = stored_rows(store)
    if frame is None:
        return {}
    quantized = frame["bits"].notna()
    parts = zip(frame["method"], frame["bits"], quantized, frame["variant"], strict=True)
    names = [_name(method, bits if is_set else None, variant) for method, bits, is_set, variant in parts]
    ends = zip(frame["run_id"], names, frame["created"], strict=True)
    return {run_id: {"run": name, "created": created} for run_id, name, created in ends}


def _name(method: str, bits: int | None, variant: str) -> str:
    return " ".join(filter(None, (method, "" if bits is None else f"bits={bits}", variant)))


def stored_rows(store: Store) -> "pd.DataFrame | None":
    """One row of every stored run; None where nothing is stored."""
    try:
        return store.load().drop_duplicates("run_id")
    except InputError:  # nothing yet
        return None


def _lines(root: Path, states: Sequence[State], *, every: bool, knows_missing: bool) -> list[str]:
    counts = Counter(run.state for run in states)
    shown = [state for state in STATES if knows_missing or state != "missing"]
    lines = [f"{root}: " + ", ".join(f"{counts[state]} {state}" for state in shown)]
    for state in STATES:
        if state == "done" and not every:
            continue
        for run in states:
            if run.state == state:
                name = run.run if len(run.run) <= _METHOD_WIDTH else run.run[: _METHOD_WIDTH - 3] + "..."
                lines.append(f"  {state:8}{run.run_id:18}{name:{_METHOD_WIDTH + 2}}{run.detail}".rstrip())
    return lines
