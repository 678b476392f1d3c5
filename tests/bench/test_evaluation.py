"""The evaluation benchmark on the embedded model: both sides agree before a time means anything."""

import json
import math

import pytest
import torch

from quantbench.bench import main
from quantbench.bench.perplexity_race import textbook_nll
from quantbench.bench.stopwatch import Stopwatch
from quantbench.errors import InputError
from quantbench.evaluation.protocols import Window
from tests.evaluation.tiny import make_model


def test_the_benchmark_finds_both_sides_equal_and_writes_what_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "deep" / "result.json"
    settings = ["--limit", "6", "--windows", "2", "--protocol", "gptq-128", "--repeats", "1"]
    assert main(["evaluation", *settings, "--tasks", "world_facts", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    (task,) = result["tasks"]
    assert task["requests"] == 24
    assert task["largest_difference"] < 1e-4
    assert (task["different_greedy"], task["different_items"]) == (0, 0)
    assert abs(result["perplexity"]["relative_difference"]) < 1e-5
    assert sum(result["perplexity"]["shares"].values()) == pytest.approx(1.0)
    assert result["perplexity"]["shares"]["matrix products"] > 0.1
    assert task["ratio"] == pytest.approx(task["theirs"] / task["ours"])
    assert f"{task['ratio']:.2f}" in capsys.readouterr().out


def test_the_textbook_loop_is_the_mean_over_all_but_the_first_token():
    model, ids = make_model(), torch.arange(40)
    with torch.no_grad():
        log_probabilities = model(ids[None]).logits[0].double().log_softmax(-1)
    expected = -log_probabilities[:-1].gather(1, ids[1:, None]).mean().item()
    assert textbook_nll(model, Window(ids, 1, "0", 39.0)) == pytest.approx(expected, rel=1e-5)


def test_the_stopwatch_takes_the_median_and_gives_the_work_back():
    watch = Stopwatch()
    assert [watch.time(lambda n=n: sum(range(n))) for n in (3, 4, 5)] == [3, 6, 10]
    assert 0 <= watch.median < 1
    assert math.isfinite(watch.processor_median)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere: no model directory"),
        (["--tasks", "mine", "--include-path", "nowhere"], "include_path=nowhere: no such folder"),
        (["--repeats", "0"], "--repeats and --rival-batch: at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        main(["evaluation", *arguments])
