import pytest

from quantbench.errors import InputError
from quantbench.report.figures.data import Point
from quantbench.report.figures.draw import pareto_front
from tests.report.figures.artists import bars, clipped, legend, line, overlapping, points, series
from tests.report.figures.conftest import accuracy, ratio
from tests.store import records


def test_every_run_stands_at_its_bits_per_weight_and_perplexity(sizes):
    drawn = series(sizes.draw("pareto").figure)
    assert points(drawn["gptq"]) == [(2.5, 20.0), (3.5, 13.0), (4.5, 10.5)]
    assert points(drawn["rtn"]) == [(2.5, 30.0), (3.5, 14.0), (4.5, 11.0)]


def test_bars_are_the_paired_ratio_on_perplexity_scale_and_the_caption_says_so(sizes):
    drawing = sizes.draw("pareto")
    ends = bars(series(drawing.figure)["gptq"])
    assert ends == [pytest.approx((19.8, 20.3)), pytest.approx((12.8, 13.3)), pytest.approx((10.3, 10.8))]
    assert "ratio to full precision" in drawing.caption


def test_without_a_ratio_the_bars_are_the_runs_own_intervals(runs):
    drawing = runs.add(records.identity(), records.perplexity(12.0, half=0.5)).draw("pareto")
    assert bars(series(drawing.figure)["gptq"]) == [(11.5, 12.5)]
    assert drawing.caption.endswith("bars: 95 % intervals")


def test_front_is_a_staircase_through_the_best_at_each_size(sizes):
    front = line(sizes.draw("pareto").figure, "Pareto front")
    assert front.get_drawstyle() == "steps-post"
    assert list(zip(*front.get_data(), strict=True)) == [(2.5, 20.0), (3.5, 13.0), (4.5, 10.5)]


def test_front_keeps_only_points_that_none_beats_in_both_directions():
    values = {"a": (2.0, 9.0), "b": (2.0, 8.0), "c": (3.0, 8.5), "d": (4.0, 7.0), "e": (5.0, 7.0)}
    given = [Point(x, y, name) for name, (x, y) in values.items()]

    def beaten(point, sign):
        return any(o.x <= point.x and sign * o.y <= sign * point.y and (o.x, o.y) != (point.x, point.y) for o in given)

    for sign, higher in ((1, False), (-1, True)):
        assert pareto_front(given, higher_is_better=higher) == [p for p in given if not beaten(p, sign)]


def test_full_precision_is_a_line_and_not_a_point(sizes):
    figure = sizes.draw("pareto").figure
    assert set(line(figure, "full precision").get_ydata()) == {10.0}
    assert set(series(figure)) == {"gptq", "rtn"}
    assert legend(figure) == ["Pareto front", "full precision", "gptq", "rtn"]


def test_more_series_than_colours_leave_the_front_named_and_the_rest_grey(runs):
    for index in range(30):
        value, size = (10.0 + index, 5.0 - 0.5 * index) if index < 3 else (60.0 + index, 6.0)
        runs.add(records.identity(method=f"method-{index:02d}", bits_per_weight=size), records.perplexity(value))
    figure = runs.draw("pareto").figure
    assert legend(figure) == ["Pareto front", "full precision", "method-02", "method-01", "method-00", "27 others"]
    assert len(line(figure, "27 others").get_xdata()) == 27


def test_time_is_the_seconds_of_calibration_and_quantization(runs):
    timed = '{"load": 9.0, "calibration": 1.5, "quantize": 20.0, "evaluate": 4.0}'
    figure = runs.add(records.identity(seconds=timed), records.perplexity(12.0)).draw("time").figure
    assert points(series(figure)["gptq"]) == [(21.5, 12.0)]


def test_time_refuses_to_mix_devices_and_shows_them_on_request(runs):
    for device in ("cpu", "gpu"):
        runs.add(records.identity(device=device), records.perplexity(12.0))
    with pytest.raises(InputError, match=r"mix device: cpu, gpu; .*add device to --by"):
        runs.draw("time")
    assert set(series(runs.draw("time", "--by", "method,device").figure)) == {"gptq cpu", "gptq gpu"}


def test_price_can_be_the_models_size_and_must_be_a_number(sizes):
    figure = sizes.draw("pareto", "--x", "model_bytes").figure
    assert {x for x, _ in points(series(figure)["gptq"])} == {12.0}
    assert figure.axes[0].get_xlabel() == "Model size (MB)"
    with pytest.raises(InputError, match="format is no number"):
        sizes.draw("pareto", "--x", "format")


def test_limits_cut_the_axis_and_name_what_lies_outside(sizes):
    drawing = sizes.draw("pareto", "--limits", "10,15")
    assert drawing.figure.axes[0].get_ylim() == (10.0, 15.0)
    assert points(series(drawing.figure)["rtn"]) == [(3.5, 14.0), (4.5, 11.0)]
    assert "outside the limits: gptq, rtn" in drawing.notes
    with pytest.raises(InputError, match="no selected run lies there"):
        sizes.draw("pareto", "--limits", "1,2")


def test_values_over_decades_get_a_logarithmic_axis_unless_told_otherwise(runs):
    runs.add(records.identity(bits_per_weight=2.0), records.perplexity(1e6))
    runs.add(records.identity(bits_per_weight=4.0), records.perplexity(12.0))
    assert runs.draw("pareto").figure.axes[0].get_yscale() == "log"
    assert runs.draw("pareto", "--linear").figure.axes[0].get_yscale() == "linear"


def test_a_broken_model_is_left_out_by_name(sizes):
    sizes.add(records.identity(method="broken"), records.perplexity(float("nan")))
    drawing = sizes.draw("pareto")
    assert "broken" not in legend(drawing.figure)
    assert any("broken" in note for note in drawing.notes)


def test_mixed_protocols_are_refused_as_in_a_table(sizes):
    sizes.add(records.identity(protocol="hf-512"), records.perplexity(12.0), ratio(1.2, 1.1, 1.3))
    with pytest.raises(InputError, match=r"mix protocol: gptq-512, hf-512; .*add protocol to --by"):
        sizes.draw("pareto")


def test_mixed_statistics_are_refused_unless_told_and_then_the_caption_says_so(sizes):
    sizes.add(records.identity(method="awq", statistics="fp"), records.perplexity(12.0), ratio(1.2, 1.1, 1.3))
    with pytest.raises(InputError, match=r"mix statistics: fp, propagate; .*to --mix to allow it"):
        sizes.draw("pareto")
    assert "mixes statistics, as asked: fp, propagate" in sizes.draw("pareto", "--mix", "statistics").caption


def test_full_precision_alone_is_no_figure(runs):
    runs.add(records.full_precision(), records.perplexity(10.0))
    with pytest.raises(InputError, match="only full precision"):
        runs.draw("pareto")


def test_accuracy_counts_upwards(runs):
    runs.add(records.identity(bits_per_weight=3.0), accuracy(0.5))
    runs.add(records.identity(bits_per_weight=4.0), accuracy(0.4))
    runs.add(records.identity(bits_per_weight=5.0), accuracy(0.7))
    figure = runs.draw("pareto", "--metric", "acc").figure
    assert list(line(figure, "Pareto front").get_ydata()) == [0.5, 0.7]


@pytest.mark.parametrize("width", ["3.3", "6.9"])
def test_long_names_are_neither_clipped_nor_on_top_of_each_other(runs, width):
    for index in range(14):
        identity = records.identity(method=f"a_rather_long_method_name_{index}", bits_per_weight=4.0 + index / 100)
        runs.add(identity, records.perplexity(10.0 * 3**index))
    figure = runs.draw("pareto", "--width", width).figure
    assert not clipped(figure)
    assert overlapping(figure) == []
    assert len(legend(figure)) == 16
