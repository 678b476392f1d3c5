"""What determines a result: the content behind a run's id, known before any model is loaded."""

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench import __version__
from quantbench.axes import AXES
from quantbench.data.corpora import CORPORA
from quantbench.errors import InputError
from quantbench.label import Label
from quantbench.models.identity import ModelIdentity

if TYPE_CHECKING:
    from quantbench.config.schema import RunConfig


# Fields of an evaluation that are younger than many stored runs: at their defaults they change no run's id.
_YOUNG = {"compute", "latency_batches", "latency_prompt", "latency_tokens"}


def determinants(config: "RunConfig", label: Label, model: ModelIdentity, device: str) -> dict[str, Any]:
    """Everything that the numbers depend on, and nothing else: not the logger, the results folder or where files lie.

    What a method does not use is left out, so full precision at bits=3 and bits=4 is one run. device (``cpu``,
    ``cuda``) counts only where the checkpoint decides the dtype, since float16 is computed as float32 on a CPU.
    """
    dtype = config.dtype if config.dtype != "auto" else config.model.default_dtype or f"checkpoint on {device}"
    found: dict[str, Any] = {
        "quantbench": __version__,
        "model": model.revision if model.revision.startswith("sha256:") else asdict(model),
        "dtype": dtype,
        "evaluation": _text(asdict(config.evaluation)),
    }
    for name in _YOUNG - _changed(config.evaluation).keys():
        del found["evaluation"][name]
    if config.evaluation.include_path is not None:
        found["evaluation"]["include_path"] = _content(Path(config.evaluation.include_path))
    if not config.quantizes:
        return found
    for axis in _acting(config):
        component = getattr(config, axis)
        found[axis] = {"component": type(component).__name__, **_changed(component)}
    if config.variant().needs_calibration:
        found["calibration"] = _text(asdict(config.calibration))
        found |= {"stats": config.stats, "seed": config.seed}
    return found | {"method": label.method, "variant": label.variant}


def _acting(config: "RunConfig") -> list[str]:
    """The axes that matter: not those of weights that stay as they are, nor young ones where they change nothing."""
    idle = set() if config.rounding.quantizes else {"format", "range", "allocation"}
    idle |= set() if config.kv_cache.quantizes else {"kv_cache"}
    idle |= set() if config.training.trains else {"training"}
    return [axis for axis in AXES if axis not in idle]


def _changed(component: Any) -> dict[str, Any]:
    """The fields that differ from their defaults: a field added later, at its default, changes no run's id."""
    defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(component)}
    return {name: value for name, value in asdict(component).items() if value != defaults[name]}


def _text(component: dict[str, Any]) -> dict[str, Any]:
    """A text's settings with a file replaced by its content, which has no split."""
    if component["corpus"] in CORPORA:
        return component
    content = _content(Path(component["corpus"]))
    return component if content is None else component | {"corpus": content, "split": None}


def _content(path: Path) -> str | None:
    """SHA-256 of a file, or of the files of a folder; None where there is neither."""
    path = path.expanduser()
    try:
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        if not path.is_dir():
            return None
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
