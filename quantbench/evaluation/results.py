"""From per-window and per-item values to measurements with confidence intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantbench.evaluation.protocols import WindowSet
from quantbench.evaluation.tasks import TaskScores
from quantbench.measurement import Measurement, Samples
from quantbench.statistics import Interval, paired_difference, weighted_mean

_Values = NDArray[np.float64]


def corpus_measurements(
    task: str,
    window_set: WindowSet,
    nll: _Values,
    *,
    baseline: _Values | None = None,
    kl: _Values | None = None,
    agreement: _Values | None = None,
    floor: _Values | None = None,
) -> list[Measurement]:
    """Measurements of one corpus from per-window means [windows]; ``task`` is the corpus's name."""
    keys, values, weights = _per_sample(window_set, nll)
    full = None if baseline is None else _per_sample(window_set, baseline)[1]
    targets = sum(len(window.targets) for window in window_set.windows)
    samples = Samples(keys, values, weights, full)
    full_value = None if full is None else weighted_mean(full, weights).map_exp().value
    found = [
        _measurement("perplexity", task, weighted_mean(values, weights).map_exp(), window_set.unit, targets,
                     baseline=full_value, samples=samples)
    ]  # fmt: skip
    if full is not None:
        ratio = paired_difference(values, full, weights).interval().map_exp()
        found.append(_measurement("perplexity_ratio", task, ratio, "ratio", targets, baseline=1.0))
    if kl is not None:
        found.append(_over_targets("kl_divergence", task, window_set, kl, "nats", full=0.0))
    if agreement is not None:
        found.append(_over_targets("top1_agreement", task, window_set, agreement, "fraction", full=1.0, higher=True))
    if floor is not None:
        _, entropy, _ = _per_sample(window_set, floor)
        found.append(
            _measurement("entropy_floor", task, weighted_mean(entropy, weights).map_exp(), window_set.unit, targets)
        )
    return found


def task_measurements(scores: Sequence[TaskScores], full: Sequence[TaskScores] | None) -> list[Measurement]:
    """Measurements of lm-eval tasks; with full precision's scores, paired, and the fraction of flipped answers."""
    known = {(score.task, score.metric): score for score in full or ()}
    found: list[Measurement] = []
    flipped: set[str] = set()
    for score in scores:
        reference = known.get((score.task, score.metric))
        assert reference is None or reference.keys == score.keys
        found.append(_task_measurement(score, reference))
        if reference is not None and score.task not in flipped and _is_correctness(score):
            flipped.add(score.task)
            changed = (np.array(score.values) != np.array(reference.values)).astype(np.float64)
            samples = Samples(score.keys, changed, np.ones(len(changed)))
            interval = weighted_mean(samples.values, samples.weights)
            found.append(
                _measurement("flips", score.task, interval, "fraction", len(changed), baseline=0.0, samples=samples)
            )
    return found


def _task_measurement(score: TaskScores, reference: TaskScores | None) -> Measurement:
    full_value = None if reference is None else reference.value
    if score.kind == "whole":
        return Measurement(
            score.metric, score.task, score.value, "score", 0, baseline=full_value,
            higher_is_better=score.higher_is_better,
        )  # fmt: skip
    values, weights = np.array(score.values), np.ones(len(score.values))
    samples = Samples(score.keys, values, weights, None if reference is None else np.array(reference.values))
    interval = weighted_mean(values, weights)
    # A task's own perplexity follows no corpus protocol, so it must not share the name of the metric that does.
    metric, unit = score.metric, "fraction" if bool(((values >= 0) & (values <= 1)).all()) else "score"
    if score.kind == "exp_mean":
        metric, unit, interval = f"task_{score.metric}", "ppl", interval.map_exp()
    return _measurement(
        metric, score.task, interval, unit, len(values), baseline=full_value, samples=samples,
        higher=score.higher_is_better,
    )  # fmt: skip


def _is_correctness(score: TaskScores) -> bool:
    return score.kind == "mean" and set(score.values) <= {0.0, 1.0}


def _per_sample(window_set: WindowSet, means: _Values) -> tuple[tuple[str, ...], _Values, _Values]:
    """Keys, values and weights of the samples: a sample's summed windows over its normaliser (tokens, words, bytes)."""
    sums = dict.fromkeys(window_set.normalisers, 0.0)
    for window, mean in zip(window_set.windows, means, strict=True):
        sums[window.sample] += window.weight * float(mean)
    weights = np.array(list(window_set.normalisers.values()))
    return tuple(sums), np.array(list(sums.values())) / weights, weights


def _over_targets(
    metric: str, task: str, window_set: WindowSet, means: _Values, unit: str, *, full: float, higher: bool = False
) -> Measurement:
    """A mean over predicted tokens, whatever the protocol divides its NLL by."""
    weights = np.array([float(len(window.targets)) for window in window_set.windows])
    keys = tuple(f"{index:05d}" for index in range(len(means)))
    interval = weighted_mean(means, weights)
    samples = Samples(keys, means, weights)
    return _measurement(metric, task, interval, unit, int(weights.sum()), baseline=full, samples=samples, higher=higher)


def _measurement(
    metric: str,
    task: str,
    interval: Interval,
    unit: str,
    count: int,
    *,
    baseline: float | None = None,
    samples: Samples | None = None,
    higher: bool = False,
) -> Measurement:
    return Measurement(
        metric=metric,
        task=task,
        value=interval.value,
        unit=unit,
        count=count,
        stderr=interval.stderr,
        ci_low=interval.low,
        ci_high=interval.high,
        baseline=baseline,
        higher_is_better=higher,
        samples=samples,
    )
