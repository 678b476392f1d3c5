import pytest

from quantbench.curves import curve_measurements
from quantbench.errors import InputError
from tests.report.figures.artists import clipped, legend
from tests.store import records


def test_each_run_is_a_line_over_the_steps(runs):
    runs.add(records.identity(method="qat", training="qat"), *curve_measurements([2.0, 1.0, 0.5]))
    runs.add(
        records.identity(run_id="b2", method="lsq", training="lsq"),
        records.perplexity(11.0),
        *curve_measurements([3.0, 0.25]),
    )
    drawing = runs.draw("training")
    (axes,) = drawing.figure.axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines == {"lsq": ([1, 2], [3.0, 0.25]), "qat": ([1, 2, 3], [2.0, 1.0, 0.5])}
    assert legend(drawing.figure) == ["lsq", "qat"]
    assert axes.get_yscale() == "log"
    assert "train_loss (nats), lower is better" in drawing.caption
    assert not clipped(drawing.figure)


def test_runs_without_training_have_no_curve(runs):
    runs.add(records.identity(), records.perplexity(11.0))
    with pytest.raises(InputError, match="no stored run has train_loss"):
        runs.draw("training")
