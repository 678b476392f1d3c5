"""The figures of an inspection, read back from what matplotlib would draw."""

from dataclasses import replace

import numpy as np
import pytest

from quantbench.report.figures import inspection as figures
from quantbench.report.figures.style import paper_style
from tests.report.figures.artists import clipped, legend, overlapping
from tests.store.inspections import inspection


def drawn(name, made):
    with paper_style():
        return figures.FIGURES[name](made)


def curves(axes):
    return {line.get_label(): list(map(float, line.get_ydata())) for line in axes.lines if line.get_label()[0] != "_"}


@pytest.mark.parametrize("name", figures.FIGURES)
@pytest.mark.parametrize("blocks", [1, 4, 48])
def test_everything_lies_inside_the_figure_and_no_labels_touch(name, blocks):
    with paper_style():
        figure = figures.FIGURES[name](inspection(blocks=blocks))
        assert not clipped(figure)
        assert overlapping(figure) == []


def test_kurtosis_of_weights_and_inputs_before_and_after_in_a_panel_for_each_kind():
    figure = drawn("kurtosis", inspection())
    assert [axes.get_title() for axes in figure.axes] == ["q_proj", "k_proj", "down_proj"]
    found = curves(figure.axes[2])
    assert found["inputs"] == [1000 + block for block in range(12)]
    assert found["inputs, transformed"] == [3 + block for block in range(12)]
    assert found["weights"] == found["weights, transformed"] == [3 + block for block in range(12)]
    assert curves(figure.axes[1])["inputs"] == [3 + block for block in range(12)], "those that it shares with q_proj"
    assert figure.axes[0].get_yscale() == "log"
    assert legend(drawn("kurtosis", inspection(transformed=False))) == ["weights", "inputs"]


def test_weights_are_a_density_over_the_code_range_with_a_line_at_each_code_point():
    figure = drawn("weights", inspection())
    (patch,) = figure.axes[0].patches
    values, edges, _ = patch.get_data()
    assert np.sum(values * np.diff(edges)) == pytest.approx(1)
    assert [edge for edge, value in zip(edges, values, strict=False) if value] == pytest.approx(
        np.arange(32) / 64 + 0.25
    )
    (lines,) = figure.axes[0].collections
    assert [float(segment[0][0]) for segment in lines.get_segments()] == [0.0, 0.25, 0.75, 1.0]
    assert drawn("weights", inspection(quantized=False, kl=False)) is None


def test_outlier_channels_are_dots_under_the_line_of_the_largest():
    axes = drawn("outliers", inspection()).axes[-1]
    assert axes.get_title() == "into down_proj"
    assert curves(axes)["inputs"] == [30 + block for block in range(12)]
    assert curves(axes)["inputs, transformed"] == [2.0] * 12
    dots = axes.lines[0].get_ydata()
    assert sorted(map(float, dots)) == sorted([30.0 + block for block in range(12)] + [8.0] * 12)


def test_what_each_linear_costs_is_a_line_for_each_kind():
    axes = drawn("sensitivity", inspection()).axes[0]
    assert curves(axes)["down_proj"] == pytest.approx([0.01 * (1 + block) for block in range(12)])
    assert axes.get_ylabel() == "KL divergence (nats)"
    assert drawn("sensitivity", inspection(kl=False)).axes[0].get_ylabel() == "Relative error of the outputs"
    assert drawn("sensitivity", inspection(quantized=False, kl=False)) is None


def test_experts_are_one_kind_and_are_averaged():
    made = inspection(kinds=["mlp.experts.0.up_proj", "mlp.experts.1.up_proj"])
    renamed = [replace(row, kind="mlp.experts.up_proj") for row in made.rows]
    figure = drawn("sensitivity", replace(made, rows=renamed))
    assert list(curves(figure.axes[0])) == ["up_proj"]
    assert len(curves(figure.axes[0])["up_proj"]) == 12


def test_files_are_the_same_for_the_same_inspection():
    first, second = (figures.draw_all(inspection(blocks=1), ["svg"]) for _ in range(2))
    assert sorted(first) == sorted(f"{name}.svg" for name in figures.FIGURES)
    assert first == second
