"""Every format that can be chosen, made as its preset makes it."""

from dataclasses import fields
from functools import cache

from omegaconf import OmegaConf

from quantbench.config import conf_dir
from quantbench.config.schema import components
from quantbench.formats import Format

NUMBERS = ("bits", "group_size", "symmetric")
OPTIONS = sorted(path.stem for path in (conf_dir() / "format").glob("*.yaml"))


def preset_numbers(method: str) -> dict:
    """What a method preset sets besides the axes."""
    preset = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{method}.yaml"))
    return {key: value for key, value in preset.items() if key in NUMBERS}


def natural_numbers(option: str) -> dict:
    """Bits and group size that a format is made for: those of a preset that selects it, otherwise its class's."""
    own = {f.name: f.default for f in fields(_class(option)) if f.name in NUMBERS}
    preset = _preset_of(option)
    return own | ({} if preset is None else preset_numbers(preset))


def _preset_of(option: str) -> str | None:
    """The preset of the format's name, or else the first one that selects it."""
    presets = sorted((conf_dir() / "method").glob("*.yaml"), key=lambda path: (path.stem != option, path.stem))
    selecting = f"override /format: {option}\n"
    return next((path.stem for path in presets if path.stem == option or selecting in path.read_text()), None)


@cache
def format_of(option: str) -> Format:
    """The format that ``format=<option>`` gives at its natural numbers."""
    chosen = {key: value for key, value in _file(option).items() if key != "defaults"}
    return _class(option)(**(natural_numbers(option) | chosen))


def _file(option: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(conf_dir() / "format" / f"{option}.yaml"))


def _class(option: str) -> type:
    return components("format")[_file(option)["defaults"][0].removesuffix("_base")]
