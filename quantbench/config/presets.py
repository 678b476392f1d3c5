"""What the method presets select, read from their files."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from quantbench.axes import AXES
from quantbench.config.schema import conf_dir

_OVERRIDE = "override /"


def preset_choices(folders: Sequence[Path] = ()) -> dict[str, dict[str, str]]:
    """Method preset -> option chosen on each axis; ``folders``: configurations besides the package's own."""
    defaults = {axis: choice for axis, choice in _selected(conf_dir() / "config.yaml").items() if axis in AXES}
    files = [file for folder in (conf_dir(), *folders) for file in sorted((folder / "method").glob("*.yaml"))]
    return {file.stem: defaults | _selected(file) for file in files}


def _selected(file: Path) -> dict[str, str]:
    """The defaults list of one file as axis -> choice; a preset that builds on another has its choices too."""
    found: dict[str, str] = {}
    for entry in OmegaConf.to_container(OmegaConf.load(file)).get("defaults", []):  # type: ignore[union-attr]
        if isinstance(entry, dict):
            found |= {str(key).removeprefix(_OVERRIDE): str(value) for key, value in entry.items()}
        elif (base := file.with_name(f"{entry}.yaml")).is_file():
            found |= _selected(base)
    return found
