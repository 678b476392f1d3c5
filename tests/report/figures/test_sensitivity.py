import numpy as np
import pytest
from scipy import stats

from quantbench.errors import InputError
from tests.report.figures.artists import bars, clipped, legend, points, series
from tests.store import records

_VALUES = {16: (12.0, 12.5, 13.0), 128: (11.0, 11.25, 11.5)}


@pytest.fixture
def seeds(runs):
    for size, values in _VALUES.items():
        for seed, value in enumerate(values):
            runs.add(records.identity(num_samples=size, seed=seed), records.perplexity(value))
    return runs


def test_line_is_the_mean_over_seeds_with_its_t_interval(seeds):
    drawing = seeds.draw("sensitivity")
    gptq = series(drawing.figure)["gptq"]
    assert points(gptq) == [(16.0, 12.5), (128.0, 11.25)]
    for (low, high), values in zip(bars(gptq), _VALUES.values(), strict=True):
        expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert (low, high) == pytest.approx(expected)
    assert "over seeds" in drawing.caption
    assert not clipped(drawing.figure)


def test_single_seeds_stay_visible_behind_the_mean(seeds):
    pale = [line for line in seeds.draw("sensitivity").figure.axes[0].lines if line.get_label() == "one seed"]
    assert sorted(y for line in pale for y in line.get_ydata()) == sorted(sum(_VALUES.values(), ()))


def test_seeds_can_be_the_question_themselves(seeds):
    seeds.add(records.uncalibrated(method="rtn"), records.perplexity(14.0))
    drawing = seeds.draw("sensitivity", "--x", "seed", "--where", "num_samples=16,none")
    figure = drawing.figure
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["gptq", "rtn"]
    assert "one seed" in legend(figure)
    assert "over seeds" in drawing.caption


def test_sizes_mixed_in_a_column_of_seeds_are_refused(seeds):
    with pytest.raises(InputError, match=r"differ in num_samples: 128, 16; .* to --by"):
        seeds.draw("sensitivity", "--x", "seed")


def test_a_method_without_calibration_is_left_out_by_name(seeds):
    seeds.add(records.uncalibrated(method="rtn"), records.perplexity(14.0))
    assert any("rtn" in note for note in seeds.draw("sensitivity").notes)
