import pytest

from quantbench.errors import InputError
from tests.report.figures.artists import bars, clipped, line, points, series
from tests.report.figures.conftest import accuracy, kl
from tests.store import records


def test_a_run_stands_at_its_kl_and_accuracy_with_both_intervals(runs):
    figure = runs.add(records.identity(), kl(0.25, half=0.05), accuracy(0.7)).draw("accuracy").figure
    gptq = series(figure)["gptq"]
    assert points(gptq) == [(0.25, 0.7)]
    assert bars(gptq, axis=0) == [pytest.approx((0.2, 0.3))]
    assert bars(gptq, axis=1) == [pytest.approx((0.7 - 1.96 * 0.02, 0.7 + 1.96 * 0.02))]
    assert set(line(figure, "full precision").get_ydata()) == {0.8}
    assert not clipped(figure)


def test_several_tasks_are_averaged_and_independent_errors_add_in_squares(runs):
    runs.add(
        records.identity(), kl(0.25), accuracy(0.5, "a", stderr=0.03), accuracy(0.7, "b", stderr=0.04, baseline=0.9)
    )
    drawing = runs.draw("accuracy")
    assert "on a, b" in drawing.notes
    figure = drawing.figure
    gptq = series(figure)["gptq"]
    assert points(gptq) == [(0.25, pytest.approx(0.6))]
    assert bars(gptq) == [pytest.approx((0.6 - 1.96 * 0.025, 0.6 + 1.96 * 0.025))]
    assert line(figure, "full precision").get_ydata()[0] == pytest.approx(0.85)
    assert figure.axes[0].get_ylabel() == "Accuracy ↑, mean of 2 tasks"


def test_one_task_can_be_chosen(runs):
    runs.add(records.identity(), kl(0.25), accuracy(0.5, "a"), accuracy(0.7, "b"))
    assert points(series(runs.draw("accuracy", "--task", "b").figure)["gptq"]) == [(0.25, 0.7)]


def test_means_over_different_tasks_are_refused(runs):
    runs.add(records.identity(), kl(0.25), accuracy(0.5, "a"), accuracy(0.7, "b"))
    runs.add(records.identity(method="rtn"), kl(0.5), accuracy(0.5, "a"))
    with pytest.raises(InputError, match=r"runs have different tasks \(a and a\+b\)"):
        runs.draw("accuracy")


def test_runs_without_kl_are_named_and_without_any_there_is_no_figure(runs):
    runs.add(records.identity(), kl(0.25), accuracy(0.5))
    runs.add(records.identity(method="rtn"), accuracy(0.4))
    assert "left out, without kl_divergence: rtn" in runs.draw("accuracy").notes
