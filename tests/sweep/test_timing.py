"""The estimate of a sweep's remaining time, against sweeps whose times are known."""

import pytest

from quantbench.sweep.timing import TimeLeft


def estimates(groups):
    """What is said after each run, beside what is true. groups: seconds until the first run, and of each later one."""
    now = 0.0
    left = TimeLeft([len(group) for group in groups], clock=lambda: now)
    times = [(number, seconds) for number, group in enumerate(groups) for seconds in group]
    said = []
    for index, (number, seconds) in enumerate(times):
        now += seconds
        said.append((left.finished(number), sum(later for _, later in times[index + 1 :])))
    return said


def test_a_group_that_goes_on_as_it_does_is_estimated_exactly():
    said = estimates([[100, 5, 5, 5]])
    assert said[0][0] is None, "the walk is no measure of the rest"
    assert all(estimate == pytest.approx(true) for estimate, true in said[1:])


def test_a_later_group_is_taken_to_be_as_slow_as_the_first():
    said = estimates([[90, 5, 5], [90, 5, 5]])
    assert [estimate for estimate, _ in said] == [None, *[pytest.approx(true) for _, true in said[1:3]], None, 5.0, 0.0]


def test_groups_of_one_run_are_estimated_from_one_another():
    assert estimates([[10], [10], [10]]) == [(20.0, 20), (10.0, 10), (0.0, 0)]


def test_runs_that_another_process_does_are_not_waited_for_in_the_count():
    now = 0.0
    left = TimeLeft([3, 2], clock=lambda: now)
    now = 10.0
    assert left.finished(0) is None
    now = 30.0
    assert left.finished(1) is None
    now = 32.0
    assert left.finished(1) == 0.0
