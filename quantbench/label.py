"""What a run is called: its method preset, the axis choices, and what was changed on top of the preset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_AXES = ("format", "range", "transform", "rounding", "allocation", "activation")


@dataclass(frozen=True)
class Label:
    """method: the preset's name; variant: axis choices and hyperparameters given besides it, ``""`` when there are
    none, so that ``method=gptq rounding=hqq`` is never mistaken for GPTQ; choices: the option chosen on each axis.
    """

    method: str
    variant: str
    choices: Mapping[str, str]

    @classmethod
    def of(cls, choices: Mapping[str, str], overrides: Sequence[str]) -> "Label":
        """From Hydra's group choices and the job's ``key=value`` overrides."""
        changed = sorted(o.lstrip("+~") for o in overrides if o.lstrip("+~").split("=")[0].split(".")[0] in _AXES)
        return cls(choices["method"], ", ".join(changed), {axis: choices[axis] for axis in _AXES})
