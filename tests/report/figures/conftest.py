from dataclasses import replace

import pytest

from quantbench.measurement import Measurement
from quantbench.report.figure import make_figure, parser
from quantbench.store.parquet import Store
from tests.store import records


class Runs:
    """A results folder to fill and to draw."""

    def __init__(self, root):
        self.store, self.count = Store(root), 0

    def add(self, identity, *measured):
        self.count += 1
        self.store.write(replace(identity, run_id=f"run-{self.count:03d}"), measured)
        return self

    def draw(self, kind, *options):
        arguments = parser().parse_args([kind, str(self.store.root), "-o", "unused.png", *options])
        return make_figure(self.store.load(), arguments)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def ratio(value: float, low: float, high: float) -> Measurement:
    return Measurement("perplexity_ratio", "text", value, "ratio", 3, ci_low=low, ci_high=high, baseline=1.0)


def kl(value: float, half: float = 0.01) -> Measurement:
    interval = {"ci_low": value - half, "ci_high": value + half}
    return Measurement("kl_divergence", "text", value, "nats", 3, baseline=0.0, **interval)


def accuracy(value: float, task: str = "facts", *, stderr: float | None = 0.02, baseline: float = 0.8) -> Measurement:
    return Measurement("acc", task, value, "fraction", 4, stderr=stderr, baseline=baseline, higher_is_better=True)


@pytest.fixture
def sizes(runs):
    """Round-to-nearest and GPTQ at 2, 3 and 4 bits: GPTQ better at each width, with intervals of its ratio."""
    for bits, rtn, gptq in ((2, 30.0, 20.0), (3, 14.0, 13.0), (4, 11.0, 10.5)):
        width = {"bits": bits, "bits_per_weight": bits + 0.5}
        for method, make, value in (("rtn", records.uncalibrated, rtn), ("gptq", records.identity, gptq)):
            identity = make(method=method, rounding=method, **width)
            change = value / 10.0
            runs.add(identity, records.perplexity(value, half=5.0), ratio(change, change - 0.02, change + 0.03))
    return runs.add(records.full_precision(), records.perplexity(10.0, half=0.5, baseline=None))
