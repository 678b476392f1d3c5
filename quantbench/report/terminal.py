"""The table at the end of a run: full precision against quantized, what it cost, where it is."""

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from quantbench.curves import DIAGNOSTICS, TRAIN_LOSS
from quantbench.layers import LAYER_METRICS
from quantbench.measurement import Measurement
from quantbench.report.numbers import decimals, fixed, size
from quantbench.report.output import emit, is_unicode
from quantbench.timings import TIME_METRICS, shares

if TYPE_CHECKING:
    from rich.table import Table

    from quantbench.store.parquet import RunPaths
    from quantbench.store.record import RunIdentity

_WIDTH = 100
_LABEL_WIDTH = 14
_NOTES = 5


def show_run(
    identity: "RunIdentity", measurements: Sequence[Measurement], paths: "RunPaths", *, file: TextIO | None = None
) -> None:
    """Print a run, just finished or read back from the store, in at most 100 columns to ``file`` (default: stdout)."""
    from rich.console import Console

    file = sys.stdout if file is None else file
    live, unicode = file.isatty(), is_unicode(file)
    width = min(_WIDTH, shutil.get_terminal_size().columns) if live else _WIDTH
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=live, no_color=not live, highlight=False, markup=False)
    console.print()
    console.print(_title(identity), style="bold" if live else "")
    console.print(_results(identity, measurements, unicode=unicode))
    for label, value in _layers(measurements) + _times(measurements) + _training(measurements) + _facts(identity):
        line = textwrap.fill(f"{label:<{_LABEL_WIDTH}}{value}", width, subsequent_indent=" " * _LABEL_WIDTH)
        console.print(line, soft_wrap=True)
    # Never wrapped: a path is there to be copied.
    console.print(f"{'stored':<{_LABEL_WIDTH}}{paths.run}", soft_wrap=True)
    emit(text.getvalue(), file)


def _title(identity: "RunIdentity") -> str:
    setting = "full precision" if identity.bits is None else _quantized(identity)
    return " | ".join((identity.method, setting, identity.model, identity.dtype))


def _quantized(identity: "RunIdentity") -> str:
    words = ["weights in full precision"]
    if identity.rounding != "none":
        group = "per row" if identity.group_size is None else f"group {identity.group_size}"
        words = [f"{identity.format} {identity.bits} bit", group, "symmetric" if identity.symmetric else "asymmetric"]
    run_time = {"activation": identity.activation, "kv_cache": identity.kv_cache}
    differing = identity.variant.split(", ") if identity.variant else []
    chosen = [f"{axis}={choice}" for axis, choice in run_time.items() if choice != "none"]
    return ", ".join([*words, *(choice for choice in chosen if choice not in differing), *differing])


def _results(identity: "RunIdentity", measurements: Sequence[Measurement], *, unicode: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if unicode else box.ASCII2, pad_edge=False, show_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("on", overflow="ellipsis" if unicode else "crop", no_wrap=True, max_width=28)
    for header in ("full precision", "quantized", "uncertainty"):
        table.add_column(header, justify="right", no_wrap=True)
    for item in measurements:
        if item.metric in DIAGNOSTICS:
            continue
        places = decimals(item.value, low=item.ci_low, high=item.ci_high, stderr=item.stderr)
        value = fixed(item.value, places)
        baseline = "" if item.baseline is None else fixed(item.baseline, max(places, _own_places(item.baseline)))
        # The floor belongs to the text, not to either model.
        cells = (value, value) if item.metric == "entropy_floor" else (baseline, value)
        uncertainty = _uncertainty(item, places, in_windows=item.task == identity.corpus)
        table.add_row(item.metric, item.task, *cells, uncertainty if unicode else uncertainty.replace("±", "+/-"))
    return table


def _own_places(baseline: float) -> int:
    """Decimals that keep three digits of full precision's value, beside a broken model whose interval keeps none."""
    return decimals(baseline, low=None, high=None) - 1


def _uncertainty(item: Measurement, places: int, *, in_windows: bool) -> str:
    """The interval of a metric over windows, the standard error of a task's: as each is reported in papers."""
    if in_windows and item.ci_low is not None and item.ci_high is not None:
        return f"95 % CI [{fixed(item.ci_low, places)}, {fixed(item.ci_high, places)}]"
    return "" if item.stderr is None else f"± {fixed(item.stderr, places)} s.e."


def _layers(measurements: Sequence[Measurement]) -> list[tuple[str, str]]:
    """One line for the errors of single layers, which say what was done to the model and not how good it is."""
    found = [item for item in measurements if item.metric in LAYER_METRICS]
    errors = ", ".join(f"{item.metric.removesuffix('_error')}s {item.value:.3g}" for item in found)
    return [("layer error", f"{errors} (relative, squared; mean of {found[0].count} linears)")] if found else []


def _times(measurements: Sequence[Measurement]) -> list[tuple[str, str]]:
    """A line for each pass that was taken apart: what its time went to."""
    found = [item for item in measurements if item.metric in TIME_METRICS]
    return [
        (item.metric.replace("_", " "), f"{item.task}, {item.value * 1e3:.3g} ms a pass: {shares(item)}")
        for item in found
    ]


def _training(measurements: Sequence[Measurement]) -> list[tuple[str, str]]:
    """One line for the loss curve, which is no result either."""
    found = [item for item in measurements if item.metric == TRAIN_LOSS]
    return [("training", f"loss {loss.baseline:.4g} to {loss.value:.4g} in {loss.count} steps") for loss in found]


def _facts(identity: "RunIdentity") -> list[tuple[str, str]]:
    memory = json.loads(identity.peak_memory)
    stages = [
        f"{stage} {seconds:.1f} s" + _peaks(memory.get(stage, {}))
        for stage, seconds in json.loads(identity.seconds).items()
    ]
    facts = [
        ("bits/weight", f"{identity.bits_per_weight:.4g}"),
        ("size", f"{size(identity.model_bytes)} model, {size(identity.quantized_bytes)} of it quantized linears"),
        ("protocol", f"{identity.protocol} on {identity.corpus}"),
    ]
    if identity.calibration is not None:
        overlap = ", the corpus that is evaluated: contaminated" if identity.contaminated else ""
        amount = f"{identity.num_samples} x {identity.seqlen} tokens, statistics {identity.statistics}"
        facts.append(("calibration", f"{identity.calibration} {amount}{overlap}"))
    facts.append(("stages", ", ".join(stages)))
    notes = json.loads(identity.notes)
    facts += [("note", note) for note in notes[:_NOTES]]
    return facts + ([("note", f"and {len(notes) - _NOTES} more, in the record")] if len(notes) > _NOTES else [])


def _peaks(memory: dict[str, int]) -> str:
    """Peak memory of a stage: of the host alone, or of host and device."""
    if len(memory) == 1:
        return f" ({size(*memory.values())})"
    return f" ({', '.join(f'{where} {size(peak)}' for where, peak in memory.items())})" if memory else ""
