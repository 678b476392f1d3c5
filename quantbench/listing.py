"""``python -m quantbench list``: everything that can be chosen."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from quantbench.arguments import ArgumentParser
from quantbench.axes import AXES
from quantbench.config import GROUPS, RunConfig, conf_dir
from quantbench.config.presets import Preset, first_comment, presets
from quantbench.errors import InputError

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(RunConfig)}


def main(argv: Sequence[str]) -> int:
    """Print the choices of one group or of all."""
    parser = ArgumentParser(prog="quantbench list", description="Everything that can be chosen.")
    parser.add_argument("group", nargs="*", help=f"any of: {', '.join(GROUPS)}; default: all")
    groups = parser.parse_args(argv).group or list(GROUPS)
    for group in groups:
        if group not in GROUPS:
            raise InputError(f"{group}: unknown group; allowed are {', '.join(GROUPS)}")
    for group in groups:
        lines = _methods() if group == "method" else _options(group)
        print(f"{group}:")
        print("\n".join(f"  {line}" for line in lines))
    return 0


def _options(group: str) -> list[str]:
    return _aligned([[path.stem, first_comment(path)] for path in sorted((conf_dir() / group).glob("*.yaml"))])


def _methods() -> list[str]:
    """Each preset with its natural bits, group and statistics, the axes it chooses, and where it is from."""
    header = ["preset", "bits", "group", "stats", "axes that differ from round to nearest", "source", "what it does"]
    known = presets()
    plain = known["rtn"].choices
    return _aligned([header, *(_method(preset, plain) for preset in known.values())])


def _method(preset: Preset, plain: dict[str, str]) -> list[str]:
    settings = _DEFAULTS | preset.settings
    quantizes = preset.choices["rounding"] != "none"
    group = "row" if settings["group_size"] in (-1, None) else str(settings["group_size"])
    chosen = [f"{axis}={preset.choices[axis]}" for axis in AXES if preset.choices[axis] != plain[axis]]
    return [
        preset.name,
        str(settings["bits"]) if quantizes else "-",
        group if quantizes else "-",
        preset.settings.get("stats", "-"),
        " ".join(chosen) or "-",
        preset.source or "-",
        preset.summary,
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
