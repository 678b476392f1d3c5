import pytest
from matplotlib.patches import Rectangle

from quantbench.errors import InputError
from tests.report.figures.artists import clipped
from tests.report.figures.conftest import ratio
from tests.store import records


@pytest.fixture
def crossed(runs):
    values = {("none", "rtn"): 1.5, ("none", "gptq"): 1.25, ("hadamard", "rtn"): 1.125}
    for (transform, rounding), value in values.items():
        identity = records.identity(method=f"{transform}_{rounding}", transform=transform, rounding=rounding)
        runs.add(identity, ratio(value, value - 0.01, value + 0.01))
    return runs.add(records.full_precision(), records.perplexity(10.0))


def _texts(figure) -> set[str]:
    return {text.get_text() for text in figure.axes[0].texts}


def test_cells_hold_the_values_and_a_missing_one_stays_empty(crossed):
    figure = crossed.draw("heatmap").figure
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hadamard", "none"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["gptq", "rtn"]
    shown = axes.images[0].get_array()
    assert shown.tolist() == [[None, 1.125], [1.25, 1.5]] or shown.filled(-1).tolist() == [[-1, 1.125], [1.25, 1.5]]
    assert _texts(figure) == {"1.125", "1.250", "1.500"}
    assert not clipped(figure)


def test_best_cell_has_a_frame(crossed):
    frames = [patch for patch in crossed.draw("heatmap").figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [patch.get_xy() for patch in frames] == [(0.5, -0.5)]


def test_numbers_are_white_on_dark_and_black_on_light(crossed):
    colors = {text.get_text(): text.get_color() for text in crossed.draw("heatmap").figure.axes[0].texts}
    assert (colors["1.500"], colors["1.125"]) == ("white", "black")


def test_runs_that_share_a_cell_are_refused_with_the_options_that_tell_them_apart(crossed):
    crossed.add(records.identity(transform="none", rounding="gptq", bits=3), ratio(2.0, 1.9, 2.1))
    with pytest.raises(InputError, match=r"bits: 3, 4; .*to --rows or --cols,"):
        crossed.draw("heatmap")
    figure = crossed.draw("heatmap", "--where", "bits=3").figure
    assert _texts(figure) == {"2.00"}


def test_many_long_columns_are_slanted_and_not_clipped(runs):
    for index in range(8):
        runs.add(records.identity(rounding=f"a_long_rounding_{index}"), ratio(1.1 + index, 1.0, 1.2))
    figure = runs.draw("heatmap").figure
    assert not clipped(figure)
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {35.0}
