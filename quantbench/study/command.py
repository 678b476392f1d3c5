"""``python -m quantbench study``: run what a study misses, and render its tables and figures."""

import argparse
import importlib
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report.numbers import size
from quantbench.store.parquet import Store
from quantbench.study import definition
from quantbench.study.definition import Rendering, Study
from quantbench.study.status import stored_rows

if TYPE_CHECKING:
    from quantbench.study.expected import Expected

_INTERRUPTED = (130, 143)


def main(argv: Sequence[str]) -> int:
    """Do the study that ``argv`` names; the exit code is that of its worst run or rendering."""
    arguments = _parser().parse_intermixed_args(argv)
    study = definition.read(definition.find(arguments.study))
    root = Path(arguments.results or Path("results") / study.name)
    print(f"{study.title} ({study.name}), results in {root}")
    code = 0
    if arguments.dry_run or not arguments.render_only:
        code = _run(study, root, arguments.overrides, dry=arguments.dry_run)
    if arguments.dry_run or code in _INTERRUPTED:
        return code
    if root.is_dir():
        Store(root).compact()
    return max(code, _render(study, root))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench study",
        description="Run what a study (experiments/NAME/study.yaml) misses, put its runs into two files and render its "
        "tables and figures.",
    )
    parser.add_argument("study", help="name, folder or file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every run (evaluation.max_windows=20)")
    parser.add_argument("--dry-run", action="store_true", help="say what it would run and take")
    parser.add_argument("--render-only", action="store_true", help="run nothing")
    parser.add_argument("--results", metavar="DIR", help="results folder (results/NAME)")
    return parser


def _run(study: Study, root: Path, overrides: Sequence[str], *, dry: bool) -> int:
    from quantbench.__main__ import main as command  # which knows this verb
    from quantbench.study.expected import expected_runs

    for override in overrides:
        if override.partition("=")[0] == "results_dir":
            raise InputError("results_dir: give --results to a study")
    runs, store = expected_runs(study, overrides), Store(root)
    missing = [run for run in runs if not store.exists(run.run_id)]
    print(f"{len(runs)} runs: {len(runs) - len(missing)} stored, {len(missing)} missing")
    if dry:
        print("\n".join(_forecast(missing, store)))
        return 0
    code = 0
    for number in sorted({run.sweep for run in missing}):
        arguments = [*study.sweeps[number], *overrides, f"results_dir={_quoted(root)}"]
        try:
            done = command(["-m", *arguments])
        except Exception:  # a bug that a run met; its sweep has gone on, and the other sweeps do
            traceback.print_exc()
            done = 1
        if done in _INTERRUPTED:
            return done
        code = max(code, done)
    left = [run for run in missing if not store.exists(run.run_id)]
    print(f"{len(missing) - len(left)} runs done" + (f", {len(left)} without result" if left else ""))
    for failure in store.failures():
        if failure.run_id in {run.run_id for run in left}:
            print(f"  {failure.run_id} {failure.method} {failure.variant}: {failure.reason}")
    return max(code, 1) if left else code  # a run that someone removed meanwhile is missing, too


def _forecast(missing: "Sequence[Expected]", store: Store) -> list[str]:
    from quantbench.study.expected import estimate

    bases = {run.basis for run in missing}
    calibrations = {run.calibration for run in missing} - {None}
    lines = [f"shared work: {len(bases)} models scored in full precision, {len(calibrations)} calibrations"]
    found = estimate(missing, stored_rows(store))
    known = len(missing) - found.unknown
    seconds = f"about {found.seconds:.0f} s one after the other for {known} runs" if known else ""
    unknown = f"unknown for {found.unknown} runs (no record of their method on this model)" if found.unknown else ""
    lines.append("time: " + (", ".join(filter(None, (seconds, unknown))) or "none"))
    peaks = ", ".join(f"{size(peak)} {place}" for place, peak in sorted(found.peak.items()))
    lines.append("memory: " + (f"{peaks} at most so far" if peaks else "unknown" if missing else "none"))
    return lines


def _render(study: Study, root: Path) -> int:
    start, codes = time.perf_counter(), []
    for table in study.tables:
        arguments = [str(root), *table.arguments, "-o", str(root / table.output)]
        codes.append(_verb("quantbench.report.table", arguments, table, root))
    for figure in study.figures:
        kind, *rest = figure.arguments
        arguments = [kind, str(root), *rest, "-o", str(root / figure.output)]
        codes.append(_verb("quantbench.report.figure", arguments, figure, root))
    print(f"rendered in {time.perf_counter() - start:.1f} s")
    return max(codes, default=0)


def _verb(module: str, arguments: Sequence[str], rendering: Rendering, root: Path) -> int:
    code = int(importlib.import_module(module).main(arguments))
    print(f"  {root / rendering.output}" + ("" if code == 0 else ": not rendered"))
    return code


def _quoted(path: Path) -> str:
    """A path as an override's value, whatever characters it has."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
