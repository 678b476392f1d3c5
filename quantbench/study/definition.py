"""What a study is: ``study.yaml``, read as data and checked before anything runs."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from quantbench.errors import InputError

FILE = "study.yaml"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_OUTPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# What belongs to whoever runs the study, and not to the study.
_NOT_OF_A_STUDY = ("results_dir", "force", "save", "device")


@dataclass(frozen=True)
class Rendering:
    """A table or figure: the name of its file, and the verb's arguments without results folder and output."""

    output: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """sweeps: lists of ``key=value,value`` overrides, each a sweep; ``common`` (in the file) is part of all of them."""

    name: str
    title: str
    sweeps: tuple[tuple[str, ...], ...]
    tables: tuple[Rendering, ...]
    figures: tuple[Rendering, ...]


def find(given: str) -> Path:
    """The study file that a name, a folder or a path means.

    Raises:
        InputError: there is none; names those that there are.
    """
    path = Path(given)
    for candidate in (path, path / FILE):
        if candidate.is_file():
            return candidate
    folders = [Path("experiments"), Path(__file__).resolve().parents[2] / "experiments"]
    if _NAME.fullmatch(given):
        for folder in folders:
            if (folder / given / FILE).is_file():
                return folder / given / FILE
    known = sorted({file.parent.name for folder in folders for file in folder.glob(f"*/{FILE}")})
    there_are = f"there are {', '.join(known)}" if known else f"no experiments/*/{FILE} here"
    raise InputError(f"study {given}: no such file, folder or study; {there_are}")


def read(path: Path) -> Study:
    """The study in the file.

    Raises:
        InputError: the file is not a study; names the entry and what is allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        return parse(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse(content: Any) -> Study:
    """The study that the parsed YAML means."""
    known = ["common", *(item.name for item in fields(Study))]
    entries = _mapping(content, "the file", known, required=("name", "title", "sweeps"))
    name = _text(entries["name"], "name")
    if not _NAME.fullmatch(name):
        raise InputError(f"name={name}: allowed are lower-case letters, digits, - and _, 64 at most")
    common = _overrides(entries.get("common", []), "common")
    sweeps = tuple(
        (*common, *_overrides(sweep, f"sweeps[{index}]"))
        for index, sweep in enumerate(_list(entries["sweeps"], "sweeps"))
    )
    if not sweeps:
        raise InputError("sweeps is empty: give at least one")
    tables, figures = (_renderings(entries.get(kind, []), kind) for kind in ("tables", "figures"))
    outputs = [rendering.output for rendering in (*tables, *figures)]
    if twice := sorted({output for output in outputs if outputs.count(output) > 1}):
        raise InputError(f"output={twice[0]} is given twice")
    return Study(name, _text(entries["title"], "title"), sweeps, tables, figures)


def _overrides(sweep: Any, where: str) -> tuple[str, ...]:
    """A sweep as a list of overrides, or as a mapping of a key to its value or list of values."""
    if isinstance(sweep, Mapping):
        overrides = [f"{key}={_value(value, f'{where}.{key}')}" for key, value in sweep.items()]
    else:
        overrides = [_text(override, where) for override in _list(sweep, where)]
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if "=" not in override:
            raise InputError(f"{where}: {override}: give key=value")
        if key in _NOT_OF_A_STUDY or key.split(".")[0].split("/")[0] == "hydra":
            raise InputError(f"{where}: {key} is not for a study to set; give it on the command line")
    return tuple(overrides)


def _value(value: Any, where: str) -> str:
    if isinstance(value, list):
        if not value:
            raise InputError(f"{where} is an empty list: give values, or write the sweep as key=value texts")
        return ",".join(_value(item, where) for item in value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise InputError(f"{where}={value!r}: allowed are text, numbers, true, false, null, or a list of them")


def _renderings(given: Any, kind: str) -> tuple[Rendering, ...]:
    found = []
    for index, item in enumerate(_list(given, kind)):
        where = f"{kind}[{index}]"
        entry = _mapping(item, where, ("output", "arguments"), required=("output", "arguments"))
        output = _text(entry["output"], f"{where}.output")
        if not _OUTPUT.fullmatch(output):
            raise InputError(f"{where}.output={output}: allowed is a file name of letters, digits, _, - and .")
        arguments = tuple(str(argument) for argument in _list(entry["arguments"], f"{where}.arguments"))
        for argument in arguments:
            option = argument.split("=")[0]
            if option.startswith("-o") or (option.startswith("--o") and "--output".startswith(option)):
                raise InputError(f"{where}: {argument}: the output is named by `output`")
        found.append(Rendering(output, arguments))
    return tuple(found)


def _mapping(value: Any, where: str, known: Sequence[str], required: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is not a mapping of {', '.join(known)}")
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(
                f"{where}: unknown entry {key}; allowed are {', '.join(known)}"
                + (f" (did you mean {close[0]}?)" if close else "")
            )
    if missing := [key for key in required if key not in value]:
        raise InputError(f"{where}: {missing[0]} is missing")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} is not a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}={value!r}: allowed is text")
    return value
