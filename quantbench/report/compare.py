"""``python -m quantbench compare A B``: is the difference between two stored configurations real, in sentences."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from quantbench.arguments import ArgumentParser
from quantbench.curves import DIAGNOSTICS
from quantbench.errors import InputError
from quantbench.report.cells import INCIDENTAL, differing_fields
from quantbench.report.numbers import text
from quantbench.report.output import emit
from quantbench.report.pairing import Comparison, Pairing
from quantbench.report.seeds import SEED, paired_seeds
from quantbench.report.selection import Query, Row, mixed, select, value_of, values_text
from quantbench.report.sentences import describe, named, sentence
from quantbench.statistics import AnswerChanges, holm

if TYPE_CHECKING:
    import pandas as pd

# The ratio is perplexity's own comparison, the floor belongs to the text, and neither layers nor steps are a sample.
_NOT_COMPARED = ("perplexity_ratio", "entropy_floor", *DIAGNOSTICS)
# What no setting of a run is.
_NOT_SETTINGS = ("run_id", "metric", "task", "count", "unit", "higher_is_better")


@dataclass(frozen=True)
class Finding:
    """One comparison with its p-value adjusted for all that were made, and what each side did to full precision's
    answers (from_full_precision: of A and of B, for right-or-wrong metrics)."""

    comparison: Comparison
    p_adjusted: float | None
    from_full_precision: tuple[AnswerChanges, AnswerChanges] | None


def main(argv: Sequence[str]) -> int:
    """Print what ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    try:
        arguments = _parser().parse_args(argv)
        sides, findings = compare(arguments.results, arguments.a, arguments.b)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    emit((_json if arguments.json else _text)(sides, findings), sys.stdout)
    return 0


def compare(results: str, a: str, b: str) -> tuple[list[list[Row]], list[Finding]]:
    """The rows of both sides (one for each metric and seed) and a finding for each metric that both have.

    Raises:
        InputError: a side that names no run or several configurations, or sides that cannot be compared.
    """
    from quantbench.store.parquet import Store, load

    frame = load(results)
    sides = [_side(frame, name, given) for name, given in (("A", a), ("B", b))]
    first, second = (_by_measure(side) for side in sides)
    shared = [key for key in first if key in second and key[0] not in _NOT_COMPARED]
    if not shared:
        raise InputError(f"A was measured by {_measures(first)}, B by {_measures(second)}: nothing in common")
    for field, _, values in mixed([row for key in shared for row in (*first[key], *second[key])], ("metric", "task")):
        raise InputError(f"A and B cannot be compared: {field} differs ({', '.join(sorted(values))})")
    if {row["run_id"] for row in sides[0]} & {row["run_id"] for row in sides[1]}:
        raise InputError(f"A and B share a run ({sides[0][0]['run_id']}): give two configurations")
    return sides, _findings(Pairing(Store(results)), [paired_seeds(first[key], second[key]) for key in shared])


def _findings(pairing: Pairing, sides: Sequence[tuple[list[Row], list[Row]]]) -> list[Finding]:
    found = [(comparison, a, b) for a, b in sides if (comparison := pairing.compare(a, b)) is not None]
    tested = [comparison.p_value for comparison, _, _ in found if comparison.p_value is not None]
    adjusted = iter(holm(tested))
    findings = []
    for comparison, a, b in found:
        changes = [pairing.changes_from_full_precision(rows[0]) if len(rows) == 1 else None for rows in (a, b)]
        both = (changes[0], changes[1]) if changes[0] and changes[1] else None
        findings.append(Finding(comparison, None if comparison.p_value is None else next(adjusted), both))
    return findings


def _side(frame: "pd.DataFrame", name: str, given: str) -> list[Row]:
    """Rows of the one configuration that a run id's beginning or conditions name; its seeds may be several."""
    conditions = _conditions(given) if "=" in given else (("run_id", _run_id(frame, name, given)),)
    query = Query(rows=(), cols=(), metrics=(), where=conditions)
    rows = select(frame, query)
    if any(field == "bits" for field, _ in conditions):
        # A table keeps full precision beside bits=4; here it would be a second configuration.
        rows = [row for row in rows if row["bits"] is not None]
    runs = list({row["run_id"]: row for row in rows}.values())
    differing = differing_fields(runs, (*SEED, *_NOT_SETTINGS))
    if differing and (differing[0] not in INCIDENTAL or len({row["seed"] for row in runs}) < len(runs)):
        told = "; ".join(f"{field}: {values_text(runs, field, most=4)}" for field in differing[:4])
        raise InputError(
            f"{name} ({given}) names {len(runs)} runs that differ in {told}; "
            f"add {differing[0]}={text(value_of(runs[0], differing[0]))}"
        )
    return rows


def _conditions(given: str) -> tuple[tuple[str, str], ...]:
    """``method=gptq,bits=4`` as pairs; a part without = is another allowed value of the field before it."""
    pairs: list[tuple[str, str]] = []
    for part in given.split(","):
        field, equals, value = part.partition("=")
        if equals:
            pairs.append((field.strip(), value.strip()))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part.strip()}")
        else:
            raise InputError(f"{given}: give FIELD=VALUE joined by commas, or the beginning of a run id")
    return tuple(pairs)


def _run_id(frame: "pd.DataFrame", name: str, prefix: str) -> str:
    found = sorted({run_id for run_id in frame["run_id"].unique() if run_id.startswith(prefix)})
    if len(found) == 1 and prefix:
        return str(found[0])
    if not found:
        raise InputError(
            f"{name}: no stored run begins with {prefix!r} (give a run id or conditions: method=gptq,bits=4)"
        )
    raise InputError(f"{name}: {len(found)} runs begin with {prefix!r}: {', '.join(found[:4])}; give more of the id")


def _by_measure(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["metric"], row["task"]), []).append(row)
    return found


def _measures(rows: Iterable[tuple[str, str]]) -> str:
    return ", ".join(" on ".join(key) for key in list(rows)[:4])


def _text(sides: Sequence[list[Row]], findings: Sequence[Finding]) -> str:
    first, second = (side[0] for side in sides)
    names = named(first, second)
    lines = [
        f"{letter}: {describe(rows)}, run{'s' if len({row['run_id'] for row in rows}) > 1 else ''} "
        + ", ".join(dict.fromkeys(row["run_id"] for row in rows))
        for letter, rows in zip("AB", sides, strict=True)
    ]
    differing = differing_fields([first, second], ("calibration_hash", *_NOT_SETTINGS))
    lines.append(
        "differ in: " + "; ".join(f"{f} {text(value_of(first, f))} | {text(value_of(second, f))}" for f in differing)
    )
    lines.append(f"both on: {first['model']}, {first['dtype']}, protocol {first['protocol']} on {first['corpus']}")
    lines += ["", *(sentence(item.comparison, item.p_adjusted, item.from_full_precision, names) for item in findings)]
    return "\n".join(lines) + "\n"


def _json(sides: Sequence[list[Row]], findings: Sequence[Finding]) -> str:
    runs = [list(dict.fromkeys(row["run_id"] for row in rows)) for rows in sides]
    found = [asdict(item) | {"real": item.p_adjusted is not None and item.p_adjusted < 0.05} for item in findings]
    return json.dumps({"a": runs[0], "b": runs[1], "findings": found}, indent=1) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench compare",
        description="Compare two stored configurations on the windows and items that both were scored on. A and B are "
        "the beginning of a run id, or conditions such as method=gptq,bits=4; several seeds of one configuration are "
        "taken together. Differences are paired, p-values adjusted for all metrics shown (Holm).",
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser
