"""The loss curve of a training, as a measurement of a run."""

from collections.abc import Sequence

import numpy as np

from quantbench.layers import LAYER_METRICS
from quantbench.measurement import Measurement, Samples
from quantbench.timings import TIME_METRICS

TRAIN_LOSS = "train_loss"
# What was done to the model, or where its time goes, not how good it is: no interval, and no test, is made of their
# samples.
DIAGNOSTICS = (*LAYER_METRICS, *TIME_METRICS, TRAIN_LOSS)
_TASK = "training"
_MOST = 1000  # points of a curve
_END = 0.1  # of the steps: their mean is the loss at the end


def curve_measurements(losses: Sequence[float]) -> list[Measurement]:
    """The loss at the end (mean of the last tenth of the steps, beside that of the first step), a sample a step.

    Of a long training, the samples are means over equally many steps, named by the last of them and weighted by their
    number.
    """
    if not losses:
        return []
    parts = np.array_split(np.asarray(losses, dtype=np.float64), min(_MOST, len(losses)))
    counts = np.array([len(part) for part in parts])
    keys = tuple(str(step) for step in counts.cumsum())
    samples = Samples(keys, np.array([part.mean() for part in parts]), counts.astype(np.float64))
    last = losses[-max(1, round(_END * len(losses))) :]
    value = float(np.mean(last))
    return [Measurement(TRAIN_LOSS, _TASK, value, "nats", len(losses), baseline=losses[0], samples=samples)]
