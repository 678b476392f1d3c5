"""Made-up runs with samples whose differences are known, for the tests of pairing, comparing and tabulating."""

import numpy as np

from quantbench.layers import LayerError, layer_measurements
from quantbench.measurement import Measurement, Samples
from tests.store import records

WINDOWS, ITEMS = 40, 200
_DIFFICULTY = np.random.default_rng(0).normal(2.3, 0.3, WINDOWS)


def perplexity(shift: float, *, noise: int = 0, spread: float = 0.02, windows: int = WINDOWS) -> Measurement:
    """Perplexity whose NLL lies ``shift`` nats above full precision's, give or take ``spread`` by window."""
    full = _DIFFICULTY[:windows]
    nll = full + shift + spread * np.random.default_rng(noise).standard_normal(windows)
    samples = Samples(tuple(f"w{i}" for i in range(windows)), nll, np.full(windows, 511.0), full)
    value, baseline = float(np.exp(nll.mean())), float(np.exp(full.mean()))
    return records.perplexity(value, half=0.5, samples=samples, baseline=baseline)


def accuracy(wrong: range, *, task: str = "facts") -> Measurement:
    """Accuracy on items of which full precision answers the last ten wrong, and this run those in ``wrong``."""
    values, full = np.ones(ITEMS), np.ones(ITEMS)
    values[wrong], full[-10:] = 0.0, 0.0
    samples = Samples(tuple(f"i{i}" for i in range(ITEMS)), values, np.ones(ITEMS), full)
    return Measurement(
        "acc", task, float(values.mean()), "fraction", ITEMS, stderr=0.02, baseline=0.95, higher_is_better=True,
        samples=samples,
    )  # fmt: skip


def layers(error: float, blocks: int = 6) -> list[Measurement]:
    """Errors of a linear a block, all alike: a paired test of two runs would call any difference certain."""
    names = [f"model.layers.{block}.mlp.up_proj" for block in range(blocks)]
    return layer_measurements(names, {name: LayerError(error, error / 2, 64) for name in names})
