"""Runs that differ in their seed alone as one number, whose interval is for new seeds and new windows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantbench.errors import InputError
from quantbench.report.cells import INCIDENTAL, differing_fields
from quantbench.report.selection import Query, Row, in_windows, is_diagnostic, is_reference, key_of
from quantbench.statistics import across_seeds, weighted_mean
from quantbench.statistics.difference import aligned
from quantbench.statistics.intervals import Interval

if TYPE_CHECKING:
    from quantbench.report.pairing import Pairing

SEED = ("seed", "calibration_hash")
"""What differs between runs of one configuration."""
NOTE = (
    "± half of the 95 % interval for other seeds and other windows or items (of perplexity: in ratio to full precision)"
)
_WITHOUT_SAMPLES = "± half of the 95 % t interval of the mean over seeds"
_RUNS = "runs"  # beside the columns of an averaged row


def averaged(rows: Sequence[Row], query: Query, pairing: "Pairing | None") -> tuple[list[Row], str]:
    """Rows of one cell that differ in nothing but their seed become one; and what its interval is, in words.

    pairing: gives the runs' samples; without it, and for metrics that keep none, the interval is over the seeds alone.
    Cells whose runs differ in more are left, for ``arrange`` to refuse.

    Raises:
        InputError: no cell has several seeds, or two runs were measured on other samples.
    """
    groups: dict[object, list[Row]] = {}
    for row in rows:
        own = row["run_id"] if is_reference(row) else None
        key = (own, key_of(row, query.rows), key_of(row, query.cols), row["metric"], row["task"])
        groups.setdefault(key, []).append(row)
    several = [group for group in groups.values() if _are_seeds(group, query)]
    if not several and all(len(group) == 1 for group in groups.values()):
        raise InputError("--over seed: no cell has runs of several seeds that differ in nothing else")
    sampled = pairing is not None and all(_has_samples(group, pairing) for group in several)
    made = {id(group): _mean(group, pairing if sampled else None) for group in several}
    merged = [row for group in groups.values() for row in ([made[id(group)]] if id(group) in made else group)]
    return merged, NOTE if sampled else _WITHOUT_SAMPLES


def runs_of(row: Row) -> Sequence[Row]:
    """The runs behind a row of a table."""
    found: Sequence[Row] = row.get(_RUNS, [row])
    return found


def paired_seeds(a: Sequence[Row], b: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Both sides in the order of the seeds; the seeds that both have, where both have several.

    Raises:
        InputError: they have none in common.
    """
    a, b = (sorted(side, key=lambda row: row["seed"]) for side in (a, b))
    if len(a) > 1 and len(b) > 1:
        common = {row["seed"] for row in a} & {row["seed"] for row in b}
        if not common:
            seeds = (", ".join(str(row["seed"]) for row in side) for side in (a, b))
            raise InputError("A has seeds {} and B {}: none in common; add seed=N on one side".format(*seeds))
        a, b = ([row for row in side if row["seed"] in common] for side in (a, b))
    return a, b


def _are_seeds(group: Sequence[Row], query: Query) -> bool:
    if len({row["seed"] for row in group}) < max(2, len(group)):
        return False
    return set(differing_fields(group, (*query.shown, *SEED))) <= set(INCIDENTAL)


def _has_samples(group: Sequence[Row], pairing: "Pairing") -> bool:
    return not is_diagnostic(group[0]) and not any(pairing.samples(row).empty for row in group)


def _mean(group: Sequence[Row], pairing: "Pairing | None") -> Row:
    """The mean of several seeds as a row."""
    group = sorted(group, key=lambda row: row["seed"])
    if pairing is None:
        values = np.array([row["value"] for row in group], np.float64)
        found = weighted_mean(values, np.ones(len(values)))
    else:
        found = _over_samples(group, pairing)
    interval = {"value": found.value, "stderr": found.stderr, "ci_low": found.low, "ci_high": found.high}
    return {**group[0], **interval, "seed": ", ".join(str(row["seed"]) for row in group), _RUNS: group}


def _over_samples(group: Sequence[Row], pairing: "Pairing") -> Interval:
    """Of seeds and windows as crossed random effects; perplexities are averaged on the scale of the NLL."""
    first = pairing.samples(group[0])
    try:
        sides = [aligned(first, pairing.samples(row)) for row in group]
    except ValueError as error:
        raise InputError(f"{group[0]['run_id']} and other seeds of it: {error}") from error
    weights = sides[0][2]
    values = np.stack([side[1] for side in sides])
    logarithmic = group[0]["metric"] in ("perplexity", "perplexity_ratio")
    full = first["baseline"].to_numpy(np.float64) if logarithmic else np.zeros(len(weights))
    if not np.isfinite(full).all():
        full = np.zeros(len(weights))
    if not np.isfinite(values).all():  # a run that broke
        return Interval(float(np.mean([row["value"] for row in group])), None, None, None)
    study = across_seeds((values - full) * weights / weights.mean(), serial=in_windows(group[0]))
    found = Interval(study.estimate, study.stderr, study.low, study.high)
    if not logarithmic:
        return found
    shift = float((weights * full).sum() / weights.sum()) if group[0]["metric"] == "perplexity" else 0.0
    ends = [None if end is None else end + shift for end in (found.low, found.high)]
    return Interval(found.value + shift, found.stderr, *ends).map_exp()
