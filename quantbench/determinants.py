"""What determines a result: the content behind a run's id, known before any model is loaded."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench import __version__
from quantbench.models.identity import ModelIdentity

if TYPE_CHECKING:
    from quantbench.config.schema import RunConfig

_AXES = ("format", "range", "transform", "rounding", "allocation", "activation")


def determinants(config: "RunConfig", model: ModelIdentity) -> dict[str, Any]:
    """Everything that the numbers depend on, and nothing else: not the device, the logger or the results folder.

    What a method does not use is left out, so full precision at bits=3 and bits=4 is one run.
    """
    found: dict[str, Any] = {
        "quantbench": __version__,
        "model": asdict(model),
        "dtype": config.dtype,
        "default_dtype": config.model.default_dtype,
        "evaluation": asdict(config.evaluation) | {"content": _content(config.evaluation.corpus)},
    }
    if config.evaluation.include_path is not None:
        found["tasks"] = _content(config.evaluation.include_path)
    if not config.rounding.quantizes:
        return found
    for axis in _AXES:
        component = getattr(config, axis)
        found[axis] = {"component": type(component).__name__, **asdict(component)}
    if needs_calibration(config):
        content = _content(config.calibration.corpus)
        found["calibration"] = asdict(config.calibration) | {"content": content}
        found |= {"stats": config.stats, "seed": config.seed}
    return found


def needs_calibration(config: "RunConfig") -> bool:
    """Whether any axis looks at activations."""
    axes = (config.range, config.transform, config.rounding)
    return config.rounding.quantizes and any(axis.needs_calibration for axis in axes)


def _content(source: str) -> str | None:
    """SHA-256 of a file, or of the files of a folder; None for a corpus known by name."""
    path = Path(source).expanduser()
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
