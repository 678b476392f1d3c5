"""Where the time of a model goes: as measurements of a run, by kind of layer."""

from collections.abc import Mapping

import numpy as np

from quantbench.measurement import Measurement, Samples

PREFILL_TIME, DECODE_TIME = "prefill_time", "decode_time"
# Their samples are kinds of layers, which are no sample of anything: no interval, and no test, is made of them.
TIME_METRICS = (PREFILL_TIME, DECODE_TIME)
REST = "rest"


def time_measurement(
    metric: str, batch: int, seconds: Mapping[str, float], full: Mapping[str, float] | None, *, count: int
) -> Measurement:
    """Seconds of one forward pass, all kinds of layers and the rest together, and a sample for each.

    seconds: by kind (``q_proj``), with ``REST`` for all that is no linear; full: full precision's; count: of passes.
    """
    keys = tuple(seconds)
    baseline = None if full is None else np.array([full.get(kind, np.nan) for kind in keys])
    samples = Samples(keys, np.array(list(seconds.values())), np.ones(len(keys)), baseline)
    total = None if full is None else sum(full.values())
    return Measurement(metric, f"batch_{batch}", sum(seconds.values()), "s", count, baseline=total, samples=samples)


def shares(measurement: Measurement) -> str:
    """One line on what took how much of the time, the most first: ``down_proj 31 %, rest 20 %``."""
    assert measurement.samples is not None
    by_share = sorted(zip(measurement.samples.values, measurement.samples.keys, strict=True), reverse=True)
    return ", ".join(f"{kind} {seconds / measurement.value:.0%}".replace("%", " %") for seconds, kind in by_share)
