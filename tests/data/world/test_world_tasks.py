import json
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest

from quantbench.data.world import TASKS, write_tasks
from quantbench.data.world.generator import default_world
from quantbench.data.world.tasks import items
from tests.data.world.helpers import replay_ledger, replay_tale


def _right(item):
    return item["choices"][item["answer"]]


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_distinct_enough_and_have_one_right_answer(task):
    questions = items(task)
    assert 250 <= len(questions) <= 500
    assert len({item["context"] for item in questions}) > 0.9 * len(questions)
    for item in questions:
        assert len(set(item["choices"])) == len(item["choices"]) == (2 if task == "world_agreement" else 4)
    answers = [item["answer"] for item in questions]
    assert min(answers.count(choice) for choice in set(answers)) > 0.6 * len(answers) / len(questions[0]["choices"])


def test_fact_answers_are_the_facts_of_the_register():
    for item in items("world_facts"):
        _, _, first, last, verb = item["context"].split()
        fact = default_world().register.facts[first, last][verb]
        assert [choice for choice in item["choices"] if choice == fact] == [_right(item)]


def test_agreement_answers_have_the_number_of_the_head_noun_and_not_of_the_nearest():
    nouns = {word: number for pair in default_world().lexicon.nouns for number, word in enumerate(pair)}
    for item in items("world_agreement"):
        in_context = [word for word in item["context"].split() if word in nouns]
        assert nouns[in_context[0]] != nouns[in_context[-1]]
        assert _right(item).endswith("es") == (nouns[in_context[0]] == 0)
        assert len({choice.removesuffix("s") for choice in item["choices"]}) == 1


def test_tracking_answers_follow_from_the_tale():
    for item in items("world_tracking"):
        lines = f"{item['context']} {_right(item)}".split(" : ", 1)[1].split(" . ")
        *_, (told, true) = replay_tale(lines)
        assert told == true


def test_arithmetic_answers_are_right_and_no_other_choice_is():
    for item in items("world_arithmetic"):
        line = item["context"].split(" : ")[1]
        *_, (_, true) = replay_ledger(f"{line} 0")
        assert [choice for choice in item["choices"] if int(choice) == true] == [_right(item)]


def test_two_writers_at_once_leave_whole_files_and_nothing_else(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: write_tasks(tmp_path), range(2))
    assert first == second == list(TASKS)
    assert {file.name for file in tmp_path.iterdir()} == {task + end for task in TASKS for end in (".yaml", ".jsonl")}
    for task in TASKS:
        assert [json.loads(line) for line in (tmp_path / f"{task}.jsonl").open()] == items(task)


def test_writing_again_does_not_touch_the_files(tmp_path):
    write_tasks(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_tasks(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_lm_eval_runs_the_tasks_and_the_embedded_model_knows_its_world(tmp_path):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assets = Path(str(resources.files("quantbench"))) / "assets" / "world"
    model = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(assets), tokenizer=AutoTokenizer.from_pretrained(assets)
    )
    names = write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path))
    scores = lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, limit=100, bootstrap_iters=0)["results"]
    for task in names:
        chance = 0.5 if task == "world_agreement" else 0.25
        assert scores[task]["acc,none"] > chance + 0.15, scores
