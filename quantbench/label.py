"""What a run is called: its method preset, and what was changed on top of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantbench.axes import AXES


@dataclass(frozen=True)
class Label:
    """method: the preset whose choices are nearest to the run's; variant: what differs from it, ``""`` for nothing.

    So ``method=gptq rounding=hqq`` is never mistaken for GPTQ, and a composition has one name however it was asked
    for: ``method=rtn rounding=gptq`` is gptq. choices: the option chosen on each axis.
    """

    method: str
    variant: str
    choices: Mapping[str, str]

    @classmethod
    def of(
        cls,
        method: str,
        choices: Mapping[str, str],
        overrides: Sequence[str],
        presets: Mapping[str, Mapping[str, str]],
    ) -> "Label":
        """From the preset asked for, the choice on each axis, the job's ``key=value`` and all presets' choices."""
        differing = {
            name: [f"{axis}={choices[axis]}" for axis in AXES if preset[axis] != choices[axis]]
            for name, preset in presets.items()
        }
        if differing.get(method) != []:  # equal presets keep the name that was asked for
            method = min(differing, key=lambda name: (len(differing[name]), name))
        given = [override.lstrip("+") for override in overrides]
        fields = [o for o in given if "." in o.split("=")[0] and o.split(".")[0] in AXES]
        return cls(method, ", ".join(sorted(differing[method] + fields)), {axis: choices[axis] for axis in AXES})
