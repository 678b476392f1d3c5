"""What the method presets select, read from their files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from quantbench.axes import AXES
from quantbench.config.schema import conf_dir
from quantbench.errors import InputError

_OVERRIDE = "override /"
_TITLE = re.compile(r"(?P<name>[^:(]+?)\s*(?:\((?P<source>.+?)\))?(?::\s*(?P<what>.+))?$")


@dataclass(frozen=True)
class Preset:
    """A method preset: choices on each axis, the settings it brings, and what the first comment of its file says.

    settings: of ``bits``, ``group_size``, ``symmetric`` and ``stats``, those of the run's defaults where the preset has
    none of its own. source: the paper or library, ``""`` where none is named.
    """

    name: str
    choices: dict[str, str]
    settings: dict[str, Any]
    source: str
    summary: str


def presets(folders: Sequence[Path] = ()) -> dict[str, Preset]:
    """All method presets by name; ``folders``: configurations besides the package's own."""
    defaults = _read(conf_dir() / "config.yaml")
    files = [file for folder in (conf_dir(), *folders) for file in sorted((folder / "method").glob("*.yaml"))]
    return {file.stem: _preset(file, *defaults) for file in files}


def preset_choices(folders: Sequence[Path] = ()) -> dict[str, dict[str, str]]:
    """Method preset -> option chosen on each axis."""
    return {name: preset.choices for name, preset in presets(folders).items()}


def first_comment(file: Path) -> str:
    """The first comment of a configuration that is not a Hydra directive: what it is, in a line."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def _preset(file: Path, choices: dict[str, str], settings: dict[str, Any]) -> Preset:
    own_choices, own_settings = _read(file)
    title = _TITLE.match(first_comment(file))
    return Preset(
        name=file.stem,
        choices={axis: choice for axis, choice in (choices | own_choices).items() if axis in AXES},
        settings=settings | own_settings,
        source=(title and title["source"]) or "",
        summary=(title and (title["what"] or title["name"])) or "",
    )


def _read(file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """One file's choices and settings; a preset that builds on another has its choices and settings too."""
    content = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a configuration (a mapping of keys to values)")
    choices: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            choices |= {str(key).removeprefix(_OVERRIDE): str(value) for key, value in entry.items()}
        elif (base := file.with_name(f"{entry}.yaml")).is_file():
            base_choices, base_settings = _read(base)
            choices, settings = choices | base_choices, settings | base_settings
    return choices, settings | {str(k): v for k, v in content.items() if k not in ("defaults", "hydra")}
