"""Putting the page together: data, figures, style and program in one file."""

import base64
import html
import json
import logging
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError
from quantbench.report.output import emit
from quantbench.report.page.content import page_data
from quantbench.report.page.illustrations import Illustration, illustrations

_ASSETS = Path(__file__).parent
_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Write the page that ``argv`` (without the program's name and verb) asks for; 2 and one line if it cannot be."""
    parser = ArgumentParser(
        prog="quantbench report",
        description="One self-contained HTML file: sortable table, figures, every run's identity, paired differences.",
    )
    parser.add_argument("results", nargs="?", default="results", help="results folder or parquet file (%(default)s)")
    parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="(%(default)s)")
    try:
        arguments = parser.parse_args(argv)
        _save(Path(arguments.output), make_page(arguments.results))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    emit(f"{arguments.output}\n", sys.stdout)
    return 0


def make_page(results: str | Path) -> str:
    """The page of the runs stored at ``results``.

    Raises:
        InputError: nothing stored there.
    """
    from quantbench.store.parquet import Store, load

    frame = load(results)
    data = page_data(frame, Store(results) if Path(results).is_dir() else None)
    drawn, refused = illustrations(frame, results)
    return string.Template(_asset("page.html")).substitute(
        title=html.escape(f"quantbench: {Path(results).resolve().name}"),
        style=_asset("page.css"),
        program=_asset("statistics.js") + _asset("page.js"),
        figures="".join(map(_figure, drawn)),
        refused="".join(f"<li>{html.escape(reason)}</li>" for reason in refused) or "<li>None.</li>",
        data=embedded(data),
    )


def embedded(data: Any) -> str:
    """JSON that a script element can hold, whatever the names in it: no tag can begin or end inside."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _figure(illustration: Illustration) -> str:
    source = base64.b64encode(illustration.svg).decode("ascii")
    words = html.escape(illustration.caption)
    return (
        f'<figure><img alt="{html.escape(illustration.title)}: {words}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption><b>{html.escape(illustration.title)}.</b> {words}</figcaption></figure>"
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _save(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
