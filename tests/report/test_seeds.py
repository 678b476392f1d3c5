"""Cells that average over calibration seeds: the mean, its interval, and what may not be averaged."""

import numpy as np
import pytest
from scipy.stats import t

from quantbench.measurement import Measurement, Samples
from quantbench.statistics import across_seeds
from tests.report import sampled
from tests.store import records

SHIFTS = (0.02, 0.05, 0.11)


def seeded(seed, **changes):
    return records.identity(seed=seed, calibration_hash=f"c{seed}", **changes)


@pytest.fixture
def several(results):
    """GPTQ with three seeds whose NLL differs, round-to-nearest which knows none, full precision."""
    results.add(records.full_precision(), sampled.perplexity(0.0))
    for seed, shift in enumerate(SHIFTS):
        results.add(seeded(seed), sampled.perplexity(shift, noise=seed))
    return results.add(records.uncalibrated(method="rtn", rounding="rtn"), sampled.perplexity(0.3, noise=9))


def cell(table, method):
    line = next(line for line in table.splitlines() if line.startswith(f"| {method} "))
    return line.split("|")[2].strip()


def test_a_cell_is_the_mean_with_half_of_the_interval_for_new_seeds_and_windows(several):
    code, out, err = several.table("--over", "seed")
    assert (code, err) == (0, "")
    runs = [sampled.perplexity(shift, noise=seed) for seed, shift in enumerate(SHIFTS)]
    differences = np.stack([run.samples.values - run.samples.baseline for run in runs])
    study, full = across_seeds(differences), runs[0].baseline
    mean, low, high = (full * np.exp(x) for x in (study.estimate, study.low, study.high))
    assert mean == pytest.approx(np.prod([run.value for run in runs]) ** (1 / 3)), "the geometric mean"
    shown, half = cell(out, "gptq").replace("*", "").split(" ± ")
    assert float(shown) == pytest.approx(mean, abs=0.06)
    assert float(half) == pytest.approx((high - low) / 2, rel=0.05)
    assert float(half) > 0.3, "wider than what one seed knows of itself"
    assert "±" not in cell(out, "rtn")
    assert "seed: 0 (rtn); 0, 1, 2 (gptq)" in out
    assert "± half of the 95 % interval for other seeds and other windows or items" in out


def test_csv_has_every_digit_and_can_have_the_ends(several):
    line = next(line for line in several.grid("--over", "seed", "--with", "ci_low,ci_high") if line.startswith("gptq"))
    _, low, high, value = line.split(",")
    assert float(low) < float(value) < float(high)
    assert "±" not in line


def test_accuracy_is_averaged_over_seeds_and_items_by_the_mixed_model(results):
    generator = np.random.default_rng(0)
    chance = generator.beta(3, 2, 50) + np.array([[-0.2], [0.0], [0.1], [0.25]])  # of an item, and of a seed
    right = (generator.random((4, 50)) < chance).astype(float)
    for seed, values in enumerate(right):
        samples = Samples(tuple(f"i{i}" for i in range(50)), values, np.ones(50), np.ones(50))
        options = {"stderr": 0.07, "baseline": 1.0, "higher_is_better": True, "samples": samples}
        results.add(seeded(seed), Measurement("acc", "facts", float(values.mean()), "fraction", 50, **options))
    seeds, items, mean = right.mean(1), right.mean(0), right.mean()
    residual = ((right - seeds[:, None] - items + mean) ** 2).sum() / (3 * 49)
    ms_seed, ms_item = 50 * seeds.var(ddof=1), 4 * items.var(ddof=1)
    variance = (ms_seed + ms_item - residual) / 200  # Searle, Casella and McCulloch, Variance Components, 4.5
    degrees = variance**2 / ((ms_seed / 200) ** 2 / 3 + (ms_item / 200) ** 2 / 49)
    half = t.ppf(0.975, degrees) * variance**0.5
    line = results.grid("--over", "seed", "--metric", "acc", "--with", "ci_low,ci_high")[-1].split(",")
    assert [float(number) for number in line[1:]] == pytest.approx([mean - half, mean + half, mean])


def test_without_samples_the_interval_is_students_over_the_seeds(results):
    values = [11.0, 11.5, 12.6]
    for seed, value in enumerate(values):
        results.add(seeded(seed), records.perplexity(value))
    low, high = t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / 3**0.5)
    line = results.grid("--over", "seed", "--with", "ci_low,ci_high")[-1].split(",")
    assert [float(number) for number in line[1:]] == pytest.approx([low, high, np.mean(values)])
    assert "t interval of the mean over seeds" in results.table("--over", "seed")[1]


def test_the_ranking_is_over_seeds_too(results):
    """With seed 0 alone GPTQ is surely better than AWQ; other seeds say that it may as well be worse."""
    for seed, (ours, theirs) in enumerate([(0.02, 0.05), (0.06, 0.02), (0.01, 0.045)]):
        results.add(seeded(seed), sampled.perplexity(ours, noise=seed, spread=0.002))
        results.add(seeded(seed, method="awq"), sampled.perplexity(theirs, noise=10 + seed, spread=0.002))
    alone = results.table("--where", "seed=0")[1]
    assert cell(alone, "gptq").startswith("**")
    assert cell(alone, "awq")[0].isdigit()
    both = results.table("--over", "seed")[1]
    assert cell(both, "gptq").startswith("**")
    assert cell(both, "awq").startswith("<u>")


def test_other_formats_say_it_too(several):
    assert r"\,$\pm$\,\num{" in several.table("--over", "seed", "--format", "latex")[1]
    assert "</strong> ± " in several.table("--over", "seed", "--format", "html")[1]


def test_runs_that_differ_in_more_than_the_seed_are_refused(several):
    several.add(seeded(3, num_samples=64), sampled.perplexity(0.04, noise=3))
    assert "4 runs fall into the cell method=gptq, bits=4 and differ in num_samples: 128, 64" in several.refusal(
        "--over", "seed"
    )


def test_without_several_seeds_there_is_nothing_to_average(results):
    results.add(seeded(0), sampled.perplexity(0.1))
    assert "no cell has runs of several seeds" in results.refusal("--over", "seed")
    assert "--over" in results.refusal("--over", "bits")
