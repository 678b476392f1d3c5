"""What an evaluation returns: one measured value with its samples. Shared by evaluation, store and report."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """Per-window or per-item values behind a measurement, in a fixed order, so that two runs can be paired.

    ``values[i]`` belongs to ``keys[i]`` (a stable name of the window, document, item or linear); ``weights[i]`` is how
    many targets it averages over (1 for an item), or how many elements the linear has; ``baseline[i]`` is the
    full-precision model's value on the same sample.
    """

    keys: tuple[str, ...]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    baseline: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        assert len(self.keys) == len(self.values) == len(self.weights)
        assert self.baseline is None or len(self.baseline) == len(self.values)


@dataclass(frozen=True)
class Measurement:
    """One metric of one task (or corpus): the value, its uncertainty and, where there is one, full precision's value.

    metric: ``perplexity``, ``kl_divergence``, ``top1_agreement``, ``acc``, ``flips`` ...; task: the corpus or lm-eval
    task it was measured on; unit: ``ppl``, ``nats``, ``fraction`` ...; ``ci_low``/``ci_high``: 95 % interval.
    """

    metric: str
    task: str
    value: float
    unit: str
    count: int
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    baseline: float | None = None
    higher_is_better: bool = False
    samples: Samples | None = field(default=None, compare=False)
