import pytest

from quantbench.errors import InputError
from tests.report.figures.artists import bars, clipped, line, overlapping, points, series
from tests.report.figures.conftest import ratio
from tests.store import records


def test_each_method_is_a_line_over_the_widths_with_its_intervals(sizes):
    figure = sizes.draw("bits").figure
    gptq = series(figure)["gptq"]
    assert [y for _, y in points(gptq)] == [2.0, 1.3, 1.05]
    assert bars(gptq) == [pytest.approx((1.98, 2.03)), pytest.approx((1.28, 1.33)), pytest.approx((1.03, 1.08))]
    assert gptq.lines[0].get_linestyle() != "None"
    assert set(line(figure, "full precision").get_ydata()) == {1.0}
    assert not clipped(figure)
    assert overlapping(figure) == []


def test_methods_at_one_width_stand_side_by_side_around_it(sizes):
    drawn = series(sizes.draw("bits").figure)
    for (left, _), (right, _), width in zip(points(drawn["gptq"]), points(drawn["rtn"]), (2, 3, 4), strict=True):
        assert left < right
        assert (left + right) / 2 == pytest.approx(width)


def test_methods_differ_in_colour_marker_and_line(sizes):
    lines = [container.lines[0] for container in series(sizes.draw("bits").figure).values()]
    for quality in ("color", "marker", "linestyle"):
        assert len({getattr(line, f"get_{quality}")() for line in lines}) == len(lines)


def test_two_runs_at_one_place_are_refused(sizes):
    sizes.add(records.identity(group_size=128), ratio(1.1, 1.0, 1.2))
    with pytest.raises(InputError, match=r"2 runs fall into the cell .* differ in group_size: 128, 64; .* to --by,"):
        sizes.draw("bits")
    assert "gptq group_size=128" in series(sizes.draw("bits", "--by", "method,group_size").figure)


def test_more_methods_than_can_be_told_apart_are_refused(runs):
    for index in range(15):
        runs.add(records.identity(method=f"m{index}"), ratio(1.1, 1.0, 1.2))
    with pytest.raises(InputError, match="--by method gives 15 series and at most 14"):
        runs.draw("bits")
