"""``python -m quantbench published``: numbers of papers and repositories, ours beside them where settings agree."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report.output import emit
from quantbench.report.selection import Query, Row, is_reference, select, value_of

_WHOLE_ROW = -1
_TEXTS = ("model", "checkpoint", "method", "setting", "preset", "corpus", "protocol", "metric", "source")


@dataclass(frozen=True)
class Published:
    """One number as it was published.

    checkpoint: the weights on the Hub; preset: our method preset with its settings; weight_bits: None in full
    precision, a fraction where types are mixed; group_size: None where the source has no groups; verified: whether the
    number was read in its source.
    """

    model: str
    checkpoint: str
    method: str
    setting: str
    preset: str
    weight_bits: float | None
    group_size: int | None
    activation_bits: int
    kv_bits: int
    corpus: str
    protocol: str
    metric: str
    value: float
    source: str
    verified: bool


@cache
def published() -> tuple[Published, ...]:
    """Every number in the package, in the order of the file."""
    text = files("quantbench.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_parse(row) for row in csv.DictReader(text.splitlines()))


def _parse(row: dict[str, str]) -> Published:
    return Published(
        **{name: row[name] for name in _TEXTS},
        weight_bits=float(row["weight_bits"]) if row["weight_bits"] else None,
        group_size=int(row["group_size"]) if row["group_size"] else None,
        activation_bits=int(row["activation_bits"]),
        kv_bits=int(row["kv_bits"]),
        value=float(row["value"]),
        verified=row["verified"] == "yes",
    )


def match(row: Row, numbers: Sequence[Published]) -> list[Published]:
    """Published numbers that a stored row can be held against: same weights, setting, text, protocol and metric.

    A run of a few windows, a method with other choices than its preset's, or other activations has none.
    """
    if row["variant"] or value_of(row, "evaluation.max_windows") is not None:
        return []
    return [item for item in numbers if _agrees(row, item)]


def _agrees(row: Row, item: Published) -> bool:
    measured = (row["corpus"], row["protocol"], row["metric"]) == (item.corpus, item.protocol, item.metric)
    if not measured or row["model"] not in (item.checkpoint, item.model) or row["method"] != item.preset:
        return False
    if is_reference(row):
        return item.weight_bits is None
    group = _WHOLE_ROW if row["group_size"] is None else row["group_size"]
    symmetry = {"asym": False, "sym": True}.get(item.setting.rpartition(" ")[2], row["symmetric"])
    run_time = (row["activation_bits"], row["kv_bits"]) == (item.activation_bits, item.kv_bits)
    return bool(run_time and (row["bits"], group, row["symmetric"]) == (item.weight_bits, item.group_size, symmetry))


def main(argv: Sequence[str]) -> int:
    """Print what ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    try:
        arguments = _parser().parse_args(argv)
        emit(report(arguments.results, model=arguments.model, method=arguments.method), sys.stdout)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def report(results: str | None, *, model: str | None = None, method: str | None = None) -> str:
    """A Markdown table of the numbers, one line for each stored run that has the same setting, or for none.

    Raises:
        InputError: no number of that model or method, or nothing stored.
    """
    numbers = [item for item in published() if model in (None, item.model, item.checkpoint)]
    if not numbers:
        raise InputError(f"--model {model}: allowed are {', '.join(dict.fromkeys(item.model for item in published()))}")
    methods = list(dict.fromkeys(item.method for item in numbers))
    numbers = [item for item in numbers if method in (None, item.method)]
    if not numbers:
        raise InputError(f"--method {method}: allowed are {', '.join(methods)}")
    lines = list(_lines(numbers, _stored(results) if results is not None else []))
    held = sum(line[5] != "-" for line in lines)
    header = ("model", "method", "setting", "protocol", "published", "ours", "difference", "source")
    rule = ("---", "---", "---", "---", "---:", "---:", "---:", "---")
    table = "\n".join("| " + " | ".join(parts) + " |" for parts in (header, rule, *lines))
    return f"{table}\n\n{len(numbers)} published numbers, {held} stored runs beside them; ? not read in its source\n"


def _stored(results: str) -> list[Row]:
    from quantbench.store.parquet import load

    return select(load(results), Query(rows=(), cols=(), metrics=()))


def _lines(numbers: Sequence[Published], rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for item in numbers:
        value = f"{item.value:g}" + ("" if item.verified else "?")
        protocol = f"{item.corpus} {item.protocol}" + ("" if item.metric == "perplexity" else f" {item.metric}")
        ours: list[Row | None] = [row for row in rows if match(row, [item])]
        for found in ours or [None]:
            told = ("-", "-") if found is None else (_ours(found), f"{found['value'] / item.value - 1:+.2%}")
            yield (item.model, item.method, item.setting, protocol, value, *told, item.source)


def _ours(row: Row) -> str:
    number = f"{row['value']:.4g}"
    if row["calibration"] is None:
        return number
    return f"{number} ({row['calibration']} {row['num_samples']}x{row['seqlen']}, seed {row['seed']})"


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="quantbench published",
        description="Numbers of papers and repositories, and stored runs beside them where model, method, setting, "
        "text and protocol agree and the whole text was scored.",
    )
    parser.add_argument("results", nargs="?", metavar="RESULTS_DIR", help="results folder (the numbers alone)")
    parser.add_argument("--model", metavar="NAME", help="numbers of this model: llama-2-7b, or its name on the Hub")
    parser.add_argument("--method", metavar="NAME", help="numbers of this method")
    return parser
