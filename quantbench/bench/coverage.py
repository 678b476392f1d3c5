"""``python -m quantbench bench coverage``: how often 95 % intervals hold a truth that is known."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantbench.arguments import ArgumentParser
from quantbench.bench.document import write_json
from quantbench.statistics import across_seeds, answer_changes, paired_difference

_Values = NDArray[np.float64]
_BURN_IN = 50
_DESCRIPTION = """Simulate differences between two runs whose true mean is known, and count how often each 95 %
interval contains it: windows that resemble their neighbours, skewed and heavy-tailed differences, unequal documents,
answers to items, several calibration seeds. Written as JSON."""


class Coverage(NamedTuple):
    """How often an interval held the truth, and its median width in units of the ideal one (1.96 true errors)."""

    setting: str
    samples: int
    correlation: float
    coverage: float
    width: float


def main(argv: Sequence[str]) -> int:
    """Simulate, print one line per setting, and write the JSON."""
    parser = ArgumentParser(prog="quantbench bench coverage", description=_DESCRIPTION)
    parser.add_argument("--trials", type=_positive, default=2000, help="simulated comparisons a setting (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/interval-coverage/coverage.json"))
    args = parser.parse_args(argv)
    rows = []
    for row in simulate(args.trials, args.seed):
        rows.append(row._asdict())
        sys.stdout.write(
            f"{row.setting:<24} n {row.samples:<4} correlation {row.correlation:<4} "
            f"coverage {row.coverage:.1%} width {row.width:.2f}\n"
        )
    write_json(args.output, {"trials": args.trials, "seed": args.seed, "rows": rows})
    return 0


def simulate(trials: int, seed: int) -> Iterator[Coverage]:
    """Every setting in turn."""
    generator = np.random.default_rng(seed)
    for name in INNOVATIONS:
        for count in (10, 20, 40, 120):
            for correlation in (0.0, 0.2, 0.4):
                yield windows(name, count, correlation, trials, generator)
    for count in (20, 60):
        yield documents(count, trials, generator)
    for count, changed, towards in ((500, 0.02, 0.5), (500, 0.1, 0.6), (100, 0.05, 0.5), (500, 0.1, 0.5)):
        yield items(count, changed, towards, trials, generator)
    for seeds, sd in ((3, 0.5), (5, 0.5), (5, 0.0), (10, 1.0)):
        yield calibration_seeds(seeds, sd, trials, generator)


INNOVATIONS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], _Values]] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "heavy-tailed (t5)": lambda generator, shape: generator.standard_t(5, shape) * np.sqrt(3 / 5),
    "skewed (exponential)": lambda generator, shape: generator.exponential(size=shape) - 1,
}


def windows(name: str, count: int, correlation: float, trials: int, generator: np.random.Generator) -> Coverage:
    """Windows of equal length whose differences follow a first-order autoregression of unit innovations, mean 0.3."""
    from scipy.signal import lfilter

    innovations = INNOVATIONS[name](generator, (trials, _BURN_IN + count))
    series = 0.3 + lfilter([1.0], [1.0, -correlation], innovations, axis=1)[:, _BURN_IN:]
    ones = np.ones(count)
    found = [paired_difference(row, np.zeros(count), ones, seed=index) for index, row in enumerate(series)]
    ideal = 1.96 / (1 - correlation) / np.sqrt(count)
    return _coverage(f"windows, {name}", count, correlation, found, 0.3, ideal)


def documents(count: int, trials: int, generator: np.random.Generator) -> Coverage:
    """Independent documents whose lengths spread over a factor of ten, longer ones less noisy, differing by 0.3."""
    lengths = np.exp(generator.normal(7, 0.6, (trials, count)))
    series = 0.3 + generator.standard_normal((trials, count)) * np.sqrt(1000 / lengths)
    found = [
        paired_difference(row, np.zeros(count), weights, seed=index)
        for index, (row, weights) in enumerate(zip(series, lengths, strict=True))
    ]
    # The weighted mean's variance is sum(w^2 1000 / w) / sum(w)^2 = 1000 / sum(w).
    return _coverage("documents", count, 0.0, found, 0.3, 1.96 * float(np.median(np.sqrt(1000 / lengths.sum(axis=1)))))


def items(count: int, changed: float, towards: float, trials: int, generator: np.random.Generator) -> Coverage:
    """Answers of which a share ``changed`` changes, ``towards`` of those for the better."""
    better, worse = changed * towards, changed * (1 - towards)
    draws = generator.multinomial(count, [better, worse, 1 - better - worse], trials)
    found = []
    for index, (up, down, _) in enumerate(draws):
        before = np.repeat([0.0, 1.0, 1.0], [up, down, count - up - down])
        after = np.repeat([1.0, 0.0, 1.0], [up, down, count - up - down])
        found.append(answer_changes(after, before, seed=index))
    ideal = 1.96 * np.sqrt((changed - (better - worse) ** 2) / count)
    return _coverage(f"items, {changed:.0%} changed", count, 0.0, found, better - worse, ideal)


def calibration_seeds(seeds: int, sd: float, trials: int, generator: np.random.Generator) -> Coverage:
    """40 windows (sd 1, correlation 0.2) crossed with seeds of standard deviation ``sd``, residual 0.5, mean 0.3."""
    from scipy.signal import lfilter

    count, correlation = 40, 0.2
    innovations = generator.standard_normal((trials, _BURN_IN + count)) * np.sqrt(1 - correlation**2)
    by_window = lfilter([1.0], [1.0, -correlation], innovations, axis=1)[:, None, _BURN_IN:]
    by_seed = sd * generator.standard_normal((trials, seeds, 1))
    found = [
        across_seeds(d) for d in 0.3 + by_window + by_seed + 0.5 * generator.standard_normal((trials, seeds, count))
    ]
    long_run = (1 + correlation) / (1 - correlation)
    ideal = 1.96 * np.sqrt(sd**2 / seeds + long_run / count + 0.25 / (seeds * count))
    return _coverage(f"{seeds} seeds, sd {sd}", count, correlation, found, 0.3, ideal)


def _coverage(
    setting: str, count: int, correlation: float, found: Sequence[Any], truth: float, ideal: float
) -> Coverage:
    low, high = np.array([[item.low, item.high] for item in found]).T
    held = float(np.mean((low <= truth) & (truth <= high)))
    return Coverage(setting, count, correlation, held, float(np.median(high - low)) / 2 / ideal)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)
