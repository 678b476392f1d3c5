"""The search for the Pareto front: what it proposes, what it keeps, and that it goes on where it stopped."""

import itertools

import pytest

from quantbench.__main__ import main
from quantbench.errors import InputError
from quantbench.search import Choices, Interval, ParetoSearch, Search, objectives
from quantbench.store.parquet import Store

pytest.importorskip("optuna")
SPACE = {
    "method": Choices.of("method", ["rtn", "gptq"]),
    "bits": Choices.of("bits", [2, 3, 4]),
    "layers": Choices.of("layers", {"alike": [], "mixed": ["allocation=mixed", "allocation.samples=2"]}),
}
SIZE = {"bits=2": 2.0, "bits=3": 3.0, "bits=4": 4.0, "allocation=mixed": 0.5}
LOSS = {"bits=2": 1.0, "bits=3": 0.3, "bits=4": 0.1, "method=gptq": -0.05, "allocation=mixed": -0.04}


def found(overrides):
    """A made-up run."""
    return sum(SIZE.get(o, 0) for o in overrides), sum(LOSS.get(o, 0) for o in overrides)


def search(folder, trials, *, space=SPACE, fixed=(), answer=found):
    """Search to the end; the study, and the overrides that were tried."""
    study = ParetoSearch(Search(trials=trials, at_once=2, startup=4), space, fixed, folder)
    tried = []
    while True:
        with study.batch() as batch:
            if not batch:
                return study, tried
            for trial in batch:
                tried.append(trial.overrides)
                study.tell(trial, answer(trial.overrides))


def test_the_front_of_a_searched_out_space_is_that_of_brute_force(tmp_path):
    study, tried = search(tmp_path, 100)
    products = itertools.product(*(list(dimension.options.values()) for dimension in SPACE.values()))
    every = [tuple(itertools.chain(*parts)) for parts in products]
    assert sorted(tried) == sorted(every)  # each once: none is proposed again
    points = {overrides: found(overrides) for overrides in every}
    best = {
        o: p for o, p in points.items() if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points.values())
    }
    front = study.front()
    assert {point.overrides: (point.bits_per_weight, point.kl_divergence) for point in front} == best
    assert [point.bits_per_weight for point in front] == sorted(point.bits_per_weight for point in front)


def test_a_search_goes_on_where_it_stopped(tmp_path):
    _, first = search(tmp_path, 5)
    study, second = search(tmp_path, 8)
    assert len(first) == 5
    assert len(second) == 3
    assert len({*first, *second}) == 8
    assert study.finished == 8


def test_a_proposal_without_an_answer_is_given_back(tmp_path):
    study = ParetoSearch(Search(trials=4, at_once=4), SPACE, (), tmp_path)
    with study.batch() as batch:
        study.tell(batch[0], (3.0, 0.2))
    assert study.finished == 1
    _, tried = search(tmp_path, 4)
    assert len(tried) == 3


def test_failed_trials_count_and_are_not_on_the_front(tmp_path):
    study, _ = search(tmp_path, 12, answer=lambda o: None if "method=rtn" in o else found(o))
    assert study.finished == 12
    assert all("method=gptq" in point.overrides for point in study.front())


def test_an_interval_is_searched_between_its_ends(tmp_path):
    space = {"rounding.damp_percent": Interval(1e-3, 1e-1, log=True)}
    _, tried = search(tmp_path, 6, space=space, answer=lambda overrides: (1.0, 1.0))
    values = [float(overrides[0].removeprefix("rounding.damp_percent=")) for overrides in tried]
    assert len(set(values)) == 6
    assert all(1e-3 <= value <= 1e-1 for value in values)


@pytest.mark.parametrize(
    ("space", "fixed", "message"),
    [
        (SPACE, ["model=opt-125m"], "searches the defaults, not model=opt-125m: give another hydra.sweeper.study"),
        ({"bits": Choices.of("bits", [2, 8])}, [], "searches another space: give another hydra.sweeper.study"),
        ({}, [], "nothing to search"),
    ],
)
def test_a_study_of_something_else_is_not_continued(tmp_path, space, fixed, message):
    search(tmp_path, 2)
    with pytest.raises(InputError, match=message):
        search(tmp_path, 4, space=space, fixed=fixed)


def test_a_run_without_divergence_cannot_be_searched():
    with pytest.raises(InputError, match=r"evaluation\.divergence must be true"):
        objectives(4.0, [])


def test_trials_are_runs_in_the_store_and_the_same_command_continues_the_search(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = ["evaluation.max_windows=2", "evaluation.tasks=[]", "logger=none", "device=cpu", "results_dir=out"]
    command = ["-m", "hydra/sweeper=optuna", *small, "method=rtn", "bits=2,3", "group_size=32,64"]
    command += ["~hydra.sweeper.space.layers"]
    assert main([*command, "hydra.sweeper.trials=2"]) == 0
    before = Store("out").load()
    assert before.run_id.nunique() == 2
    capfd.readouterr()
    assert main([*command, "hydra.sweeper.trials=4"]) == 0
    runs = Store("out").load()
    assert runs.run_id.nunique() == 4
    assert set(before.run_id) < set(runs.run_id)

    divergence = runs[runs.metric == "kl_divergence"]
    points = list(zip(divergence.bits_per_weight, divergence.value, strict=True))
    best = sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points))
    shown = [line.split() for line in capfd.readouterr().out.splitlines() if " nats  " in line]
    assert [(line[0], line[2]) for line in shown] == [(f"{bits:.3f}", f"{kl:.4f}") for bits, kl in best]
