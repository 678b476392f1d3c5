"""How numbers are written: as many digits as their uncertainty supports."""

import json
import math

_MOST_DECIMALS = 6
_NORMAL_95 = 1.96


def decimals(value: float, *, low: float | None, high: float | None, stderr: float | None = None) -> int:
    """Decimals (negative: tens, hundreds) that keep two digits of the 95 % half-width, or four of the value."""
    half = None
    if low is not None and high is not None:
        half = (high - low) / 2
    elif stderr is not None:
        half = _NORMAL_95 * stderr
    if half is not None and math.isfinite(half) and half > 0:
        return min(_MOST_DECIMALS, 1 - math.floor(math.log10(half)))
    if value == 0 or not math.isfinite(value):
        return 0
    return min(_MOST_DECIMALS, max(0, 3 - math.floor(math.log10(abs(value)))))


def fixed(value: float, places: int) -> str:
    """``value`` with that many decimals; above a million in scientific notation with three digits."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{round(value, places) + 0.0:.{max(0, places)}f}"


def rounded(value: float, *, low: float | None, high: float | None, stderr: float | None = None) -> str:
    """``value`` to the digits that its 95 % interval (or standard error) supports."""
    return fixed(value, decimals(value, low=low, high=high, stderr=stderr))


def size(count: float) -> str:
    """Bytes with a binary prefix."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def text(value: object) -> str:
    """A recorded field as people write it: none, true, 0.01, gptq."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def total_seconds(stages: str) -> float:
    """Of a run, from its record's ``seconds``; what it shared with others is a part of ``quantize``."""
    return float(sum(seconds for stage, seconds in json.loads(stages).items() if stage != "quantize_shared"))
