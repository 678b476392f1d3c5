"""An inspection at the terminal: a line for each kind of linear, the linears that cost most, and where outliers are."""

import io
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from quantbench.report.output import emit, is_unicode
from quantbench.store.inspection import AFTER, BEFORE, INPUT, WEIGHT, InspectedRow, Inspection

if TYPE_CHECKING:
    from rich.table import Table

    Value = Callable[[InspectedRow], float | None]

_WIDTH, _ARROW = 140, "→"
_LABEL_WIDTH = 17
_WORST = 3
_SENSITIVITIES = ("kl", "output_error", "weight_error")
_HEADS = (
    "kurtosis\nof weight",
    "kurtosis\nof input",
    "outlier\nof input",
    "code\nentropy",
    "clipped",
    "weight\nerror",
    "output\nerror",
    "KL",
)


def show(inspection: Inspection, *, top: int, file: TextIO | None = None) -> None:
    """Print it to ``file`` (default: stdout). top: how many of the linears that cost most."""
    from rich.console import Console

    file = sys.stdout if file is None else file
    text, unicode = io.StringIO(), is_unicode(file)
    console = Console(file=text, width=_WIDTH, no_color=True, highlight=False, markup=False)
    console.print()
    console.print(title(inspection))
    console.print()
    console.print(_table("kind (medians; sum of KL)", _kinds(inspection), unicode=unicode))
    if top and (linears := _most_sensitive(inspection, top)):
        console.print()
        console.print(_table("linears that cost most", linears, unicode=unicode))
    console.print()
    for label, value in _facts(inspection):
        console.print(f"{label:<{_LABEL_WIDTH}}{value}", soft_wrap=True)
    emit(text.getvalue() if unicode else text.getvalue().replace(_ARROW, ">"), file)


def title(inspection: Inspection) -> str:
    """What was inspected, in a line."""
    subject = inspection.subject
    setting = "full precision"
    if subject["bits"] is not None:
        group = "per row" if subject["group_size"] is None else f"group {subject['group_size']}"
        setting = f"{subject['choices']['format']} {subject['bits']} bit, {group}"
    named = ", ".join(filter(None, (subject["method"], subject["variant"])))
    return " | ".join((named, setting, subject["model"], subject["dtype"]))


def sensitivity_metric(inspection: Inspection) -> str | None:
    """What is known of the cost of single linears: ``kl``, else an error; None where nothing is quantized."""
    rows = inspection.select(WEIGHT, AFTER).values()
    return next((name for name in _SENSITIVITIES if any(getattr(row, name) is not None for row in rows)), None)


def _kinds(inspection: Inspection) -> list[list[str]]:
    """A line for each kind of linear."""
    kinds: dict[str, list[InspectedRow]] = {}
    for row in inspection.select(WEIGHT, AFTER).values():
        kinds.setdefault(row.kind, []).append(row)
    lines = []
    for kind, rows in kinds.items():
        costs = [row.kl for row in rows if row.kl is not None]
        lines.append([f"{kind} x {len(rows)}", *_cells(inspection, rows), _number(sum(costs) if costs else None)])
    return lines


def _most_sensitive(inspection: Inspection, top: int) -> list[list[str]]:
    """A line for each of the linears that cost most."""
    metric = sensitivity_metric(inspection)
    if metric is None:
        return []
    return [[_short(row), *_cells(inspection, [row]), _number(row.kl)] for row in _costliest(inspection, metric)[:top]]


def _short(row: InspectedRow) -> str:
    """Its name from the number of the block on."""
    return f"{row.block}.{row.name.partition(f'.{row.block}.')[2]}"


def _costliest(inspection: Inspection, metric: str) -> list[InspectedRow]:
    rows = [row for row in inspection.select(WEIGHT, AFTER).values() if getattr(row, metric) is not None]
    return sorted(rows, key=lambda row: -getattr(row, metric))


def _cells(inspection: Inspection, rows: Sequence[InspectedRow]) -> list[str]:
    """Medians over linears: weights and inputs before and after the transform, and what quantizing made of them."""
    cells = [
        _change(inspection, [row.name for row in rows], WEIGHT, lambda row: row.kurtosis),
        _change(inspection, [row.site for row in rows], INPUT, lambda row: row.kurtosis),
        _change(inspection, [row.site for row in rows], INPUT, lambda row: row.channel_ratio),
        _number(_median(rows, lambda row: row.code_entropy)),
    ]
    clipped = _median(rows, lambda row: row.clipped)
    cells.append("" if clipped is None else f"{100 * clipped:.2g} %")
    return [*cells, *(_number(_median(rows, value)) for value in (lambda r: r.weight_error, lambda r: r.output_error))]


def _change(inspection: Inspection, names: Iterable[str], what: str, value: "Value") -> str:
    """A median before the transform, and after it where there is one."""
    stages, names = (BEFORE, AFTER) if inspection.transformed else (BEFORE,), list(names)
    found = [inspection.select(what, stage) for stage in stages]
    return f" {_ARROW} ".join(_number(_median([of[name] for name in names if name in of], value)) for of in found)


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    subject = inspection.subject
    amount = f"{subject['num_samples']} x {subject['seqlen']} tokens, statistics {subject['statistics']}"
    facts = [("calibration", f"{subject['calibration']} {amount}")]
    for stage in (BEFORE, AFTER) if inspection.transformed else (BEFORE,):
        facts += [(f"outliers {stage}", line) for line in _outliers(inspection, stage)]
    costs = [row.kl or 0.0 for row in _costliest(inspection, "kl")]
    if costs:
        half = next(count for count in range(1, len(costs) + 1) if 2 * sum(costs[:count]) >= sum(costs))
        total = f"the {len(costs)} linears, each quantized alone, sum to {sum(costs):.3g} nats"
        facts.append(("KL", f"{total} on {subject['samples']} samples; {half} of them are half of it"))
    return facts + [("note", note) for note in subject["notes"][:_WORST]]


def _outliers(inspection: Inspection, stage: str) -> list[str]:
    """The inputs with the largest channels."""
    rows = [row for row in inspection.select(INPUT, stage).values() if row.channels_over_6]
    worst = sorted(rows, key=lambda row: -(row.channel_ratio or 0))[:_WORST]
    if not worst:
        return ["no channel of any input exceeds 6 times the median channel"]
    return [
        f"input of {_short(row)}: channel {row.outlier_channels[0]} is {row.outlier_ratios[0]:.0f} x the median, "
        f"{row.channels_over_6} of {row.channels} channels over 6 x, {row.channels_over_20} over 20 x; "
        f"the largest token is {_number(row.row_ratio)} x the median"
        for row in worst
    ]


def _table(name: str, lines: Iterable[Sequence[str]], *, unicode: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if unicode else box.ASCII2, pad_edge=False, show_edge=False)
    table.add_column(name, no_wrap=True)
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _median(rows: Iterable[InspectedRow], value: "Value") -> float | None:
    found = [number for row in rows if (number := value(row)) is not None]
    return statistics.median(found) if found else None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"
