import pytest

from quantbench.errors import InputError
from quantbench.layers import LayerError, layer_measurements
from quantbench.report.figure import make_figure, parser
from tests.report.figures.artists import clipped, legend, overlapping
from tests.store import records

KINDS = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")


def errors(scale, *, kinds=KINDS, blocks=12, output=True):
    """Errors that grow with the block, ten times as large in the outputs of up_proj as in its weights."""
    names = [f"model.layers.{block}.{kind}" for block in range(blocks) for kind in kinds]
    found = {}
    for name in names:
        block = int(name.split(".")[2])
        value = scale * (1 + block)
        found[name] = LayerError(value, value / 10 if output else None, 64)
    return layer_measurements(names, found)


@pytest.fixture
def two(runs):
    runs.add(records.identity(), records.perplexity(11.0), *errors(0.01))
    return runs.add(
        records.uncalibrated(method="rtn", rounding="rtn"), records.perplexity(12.0), *errors(0.02, output=False)
    )


def drawn(figure):
    """Points of each line, by the panel's title and the line's name."""
    return {
        axes.get_title(): {line.get_label(): list(map(float, line.get_ydata())) for line in axes.lines}
        for axes in figure.axes
    }


def test_each_kind_of_linear_is_a_panel_with_a_line_for_each_method_over_the_blocks(two):
    drawing = two.draw("layers")
    panels = drawn(drawing.figure)
    assert list(panels) == ["q_proj", "up_proj", "down_proj"]
    for lines in panels.values():
        assert lines["gptq"] == pytest.approx([0.01 * (1 + block) for block in range(12)])
        assert lines["rtn"] == pytest.approx([0.02 * (1 + block) for block in range(12)])
    assert list(drawing.figure.axes[0].lines[0].get_xdata()) == list(range(12))
    assert legend(drawing.figure) == ["gptq", "rtn"]
    assert {axes.get_yscale() for axes in drawing.figure.axes} == {"log"}
    assert "weight_error (fraction), lower is better" in drawing.caption
    assert not clipped(drawing.figure)
    assert overlapping(drawing.figure) == []


def test_errors_of_outputs_are_those_of_the_runs_that_know_them(two):
    panels = drawn(two.draw("layers", "--metric", "output_error").figure)
    assert panels["up_proj"] == {"gptq": pytest.approx([0.001 * (1 + block) for block in range(12)])}


def test_panels_stand_side_by_side_as_far_as_the_width_allows(two):
    for width, columns in (("3.3", 2), ("6.9", 3)):
        figure = two.draw("layers", "--width", width).figure
        figure.draw_without_rendering()
        assert len({round(axes.get_position().x0, 2) for axes in figure.axes}) == columns
        assert not clipped(figure)


def test_experts_are_averaged_and_kinds_with_one_last_name_keep_the_whole_one(runs):
    experts = [f"mlp.experts.{index}.up_proj" for index in range(3)]
    runs.add(records.identity(), *errors(0.01, kinds=["mlp.shared.up_proj", *experts]))
    assert list(drawn(runs.draw("layers").figure)) == ["mlp.shared.up_proj", "mlp.experts.up_proj"]


def test_a_layer_without_an_error_makes_the_scale_linear(runs):
    runs.add(records.identity(), *errors(0.0))
    assert runs.draw("layers").figure.axes[0].get_yscale() == "linear"
    with pytest.raises(InputError, match="--log needs positive values"):
        runs.draw("layers", "--log")


def test_runs_of_other_widths_in_one_line_are_refused(two):
    two.add(records.identity(bits=3), *errors(0.05))
    with pytest.raises(InputError, match=r"2 runs fall into the cell method=gptq and differ in bits: 3, 4"):
        two.draw("layers")
    assert legend(two.draw("layers", "--by", "method,bits").figure) == ["gptq bits=3", "gptq bits=4", "rtn bits=4"]


def test_older_records_are_refused_with_what_to_do(runs):
    runs.add(records.identity(), records.perplexity(11.0))
    with pytest.raises(InputError, match=r"no stored run has weight_error: older records lack it \(force=true"):
        runs.draw("layers")


def test_a_file_of_rows_without_samples_is_refused(two):
    file = two.store.paths("run-001").run
    with pytest.raises(InputError, match="holds no samples"):
        make_figure(two.store.load(), parser().parse_args(["layers", str(file), "-o", "unused.png"]))
