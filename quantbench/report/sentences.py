"""A comparison in words: who is better, by how much, how sure, and which answers changed."""

import math
from collections.abc import Sequence

from quantbench.report.numbers import decimals, fixed, rounded, text
from quantbench.report.pairing import Comparison
from quantbench.report.selection import Row
from quantbench.statistics import CONFIDENCE, AnswerChanges

# What tells two configurations apart in speech, the first that differs; A and B where none does.
_NAMING = (("method", "bits"), ("method", "bits", "group_size"), ("method", "bits", "group_size", "variant"))


def describe(rows: Sequence[Row]) -> str:
    """A configuration in a few words: gptq, int 4 bit, group 64, asymmetric, seeds 0, 1."""
    row = rows[0]
    if row["bits"] is None:
        return f"{row['method']}, full precision"
    if row["rounding"] == "none":
        parts = [row["method"], "weights in full precision", row["variant"]]
    else:
        group = "whole row" if row["group_size"] is None else f"group {row['group_size']}"
        parts = [row["method"], f"{row['format']} {row['bits']} bit", group, row["variant"]]
    seeds = sorted({other["seed"] for other in rows})
    parts.append(f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "")
    return ", ".join(filter(None, parts))


def named(a: Row, b: Row) -> tuple[str, str]:
    """The shortest names that tell A and B apart."""
    for fields in _NAMING:
        names = _name(a, fields), _name(b, fields)
        if names[0] != names[1]:
            return names
    return "A", "B"


def _name(row: Row, fields: Sequence[str]) -> str:
    if row["rounding"] == "none":  # the others are of weights, which stay as they are
        fields = ("method", "variant")
    return " ".join(filter(None, (_word(row, field) for field in fields)))


def sentence(
    found: Comparison,
    p_adjusted: float | None,
    from_full: tuple[AnswerChanges, AnswerChanges] | None,
    names: tuple[str, str],
) -> str:
    """The finding, its evidence and the verdict."""
    parts = [f"{_title(found)}: {_claim(found, p_adjusted, names)}: {_values(found)}", *_evidence(found, p_adjusted)]
    if found.changes is not None and found.metric != "flips":
        parts.append(f"{_changes(found.changes)} from {names[1]} to {names[0]}")
    if found.study is not None:
        study = found.study
        parts.append(f"sd between seeds {study.seed_sd:.2g}, between windows {study.window_sd:.2g}")
    if from_full is not None and found.metric != "flips":
        told = (f"{name} {_changes(changes)}" for name, changes in zip(names, from_full, strict=True))
        parts.append("from full precision: " + " and ".join(told))
    return "; ".join(parts) + f" - {_verdict(p_adjusted)}"


def _word(row: Row, field: str) -> str:
    value = row[field]
    if field == "bits":
        return "" if value is None else f"{value} bit"
    if field == "group_size":
        return "" if row["bits"] is None else ("whole row" if value is None else f"group {value}")
    return text(value) if value else ""


def _title(found: Comparison) -> str:
    about = {"kl_divergence": " (volume of change)", "flips": " (volume of change)"}.get(found.metric, "")
    return f"{found.metric}{about} on {found.task}"


def _claim(found: Comparison, p_adjusted: float | None, names: tuple[str, str]) -> str:
    a, b = names
    if found.estimate == 0:
        return f"{a} equals {b}"
    if not math.isfinite(found.value_a) and math.isfinite(found.value_b):
        return f"{a} broke, {b} did not"
    if not math.isfinite(found.value_b) and math.isfinite(found.value_a):
        return f"{b} broke, {a} did not"
    if p_adjusted is None or p_adjusted >= 1 - CONFIDENCE:
        return f"{a} is not shown to differ from {b}"
    words = (
        ("changes less than", "changes more than") if "volume" in _title(found) else ("is better than", "is worse than")
    )
    return f"{a} {words[0] if found.a_is_better else words[1]} {b}"


def _values(found: Comparison) -> str:
    # As many digits as tell the two apart: those of the paired interval, not of either value's own.
    if found.low is None or found.high is None:
        return f"{found.value_a:.4g} vs {found.value_b:.4g}"
    scale = found.value_b if found.is_ratio else 1.0
    places = max(decimals(found.value_a, low=found.low * scale, high=found.high * scale), 0)
    places = min(places, max(0, decimals(min(found.value_a, found.value_b), low=None, high=None) + 2))
    return f"{fixed(found.value_a, places)} vs {fixed(found.value_b, places)}"


def _evidence(found: Comparison, p_adjusted: float | None) -> list[str]:
    if found.low is None or found.high is None or found.p_value is None or p_adjusted is None:
        return []
    value, low, high, what = found.estimate, found.low, found.high, "difference"
    if found.is_ratio:
        value, low, high, what = math.exp(value), math.exp(low), math.exp(high), "ratio"
    places = max(0, decimals(value, low=low, high=high))
    interval = f"{what} {rounded(value, low=low, high=high)} (95 % {fixed(low, places)} to {fixed(high, places)})"
    adjusted = f", {_p(p_adjusted)} with all metrics here" if p_adjusted != found.p_value else ""
    return [f"{interval}, p {_p(found.p_value)}{adjusted}"]


def _changes(changes: AnswerChanges) -> str:
    direction = f"{changes.better} for the better and {changes.worse} for the worse"
    return f"{changes.changed} of {changes.count} answers change, {direction}"


def _p(value: float) -> str:
    return "< 1e-6" if value < 1e-6 else f"{value:.2g}"


def _verdict(p_adjusted: float | None) -> str:
    if p_adjusted is None:
        return "no test: a run broke, or has a single sample"
    return "real" if p_adjusted < 1 - CONFIDENCE else "may be chance"
