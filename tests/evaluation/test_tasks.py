import json
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from quantbench.errors import InputError
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.tasks import check_tasks, load_tasks, run_tasks
from tests.evaluation.tiny import make_model, make_text, make_tokenizer

CHOICES = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def write_task(folder: Path, name: str, *, items: int, seed: int) -> None:
    generator = random.Random(seed)
    rows = [
        {
            "question": make_text(4, seed=generator.randrange(10**6)),
            "choices": [make_text(generator.randint(1, 3), seed=generator.randrange(10**6)) for _ in range(3)],
            "answer": generator.randrange(3),
        }
        for _ in range(items)
    ]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(CHOICES.format(name=name, data=data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tasks"
    path.mkdir()
    write_task(path, "tiny_one", items=12, seed=1)
    write_task(path, "tiny_two", items=5, seed=2)
    (path / "both.yaml").write_text("group: tiny_both\ntask:\n  - tiny_one\n  - tiny_two\n")
    return path


def scores(config: Evaluation, cache: Path, model: Any) -> dict[tuple[str, str], Any]:
    tasks = load_tasks(config, cache_dir=cache)
    assert tasks is not None
    return {(score.task, score.metric): score for score in run_tasks(tasks, model, make_tokenizer(), config)}


def test_local_task_equals_lm_eval_item_for_item_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = make_model(context=256)
    expected = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=make_tokenizer(), batch_size=2),
        tasks=["tiny_one"],
        num_fewshot=2,
        limit=10,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"network access: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    config = Evaluation(tasks=["tiny_one"], include_path=str(folder), num_fewshot=2, limit=10, batch_size=2)
    found = scores(config, tmp_path, model)
    for metric in ("acc", "acc_norm"):
        score = found["tiny_one", metric]
        assert dict(zip(score.keys, score.values, strict=True)) == {
            str(sample["doc_id"]): sample[metric] for sample in expected["samples"]["tiny_one"]
        }
        assert score.value == pytest.approx(expected["results"]["tiny_one"][f"{metric},none"])
        assert score.higher_is_better


def test_likelihood_task_gives_lm_evals_perplexity_and_accuracy(tmp_path: Path) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    data = tmp_path / "rows.jsonl"
    rows = [{"context": make_text(6, seed=seed), "target": " " + make_text(1, seed=seed)} for seed in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    definition = CHOICES.format(name="tiny_target", data=data).split("output_type")[0] + (
        "output_type: loglikelihood\ndoc_to_text: '{{context}}'\ndoc_to_target: '{{target}}'\n"
        "metric_list:\n  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
        "  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (tmp_path / "tiny_target.yaml").write_text(definition)
    model = make_model(context=256)
    expected = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=make_tokenizer(), batch_size=1),
        tasks=["tiny_target"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )["results"]["tiny_target"]
    found = scores(Evaluation(tasks=["tiny_target"], include_path=str(tmp_path)), tmp_path, model)
    assert found["tiny_target", "perplexity"].value == pytest.approx(expected["perplexity,none"])
    assert not found["tiny_target", "perplexity"].higher_is_better
    assert found["tiny_target", "acc"].value == pytest.approx(expected["acc,none"])


def test_a_second_model_gets_the_prepared_requests_and_its_own_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Evaluation(tasks=["tiny_one"], include_path=str(folder), num_fewshot=1)
    models = [make_model(context=256, seed=seed) for seed in (0, 5)]
    alone = [scores(config, tmp_path, model)["tiny_one", "acc"] for model in models]
    assert alone[0].values != alone[1].values
    tasks = load_tasks(config, cache_dir=tmp_path)
    assert tasks is not None
    first = run_tasks(tasks, models[0], make_tokenizer(), config)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("prepared a second time")

    monkeypatch.setattr("lm_eval.api.task.ConfigurableTask.fewshot_context", refuse)
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.tok_encode", refuse)
    second = run_tasks(tasks, models[1], make_tokenizer(), config)
    assert [score.values for score in (first[0], second[0])] == [score.values for score in alone]
    assert run_tasks(tasks, models[0], make_tokenizer(), config) == first


def test_a_group_pools_the_items_of_its_tasks(folder: Path, tmp_path: Path) -> None:
    config = Evaluation(tasks=["tiny_both", "tiny_one", "tiny_two"], include_path=str(folder))
    found = scores(config, tmp_path, make_model(context=256))
    both, one, two = (found[name, "acc"] for name in ("tiny_both", "tiny_one", "tiny_two"))
    assert both.value == pytest.approx((12 * one.value + 5 * two.value) / 17)
    assert both.keys == tuple(f"tiny_one/{i}" for i in range(12)) + tuple(f"tiny_two/{i}" for i in range(5))


def test_a_changed_item_changes_the_tasks_fingerprint(folder: Path, tmp_path: Path) -> None:
    config = Evaluation(tasks=["tiny_one"], include_path=str(folder))
    before = load_tasks(config, cache_dir=tmp_path)
    again = load_tasks(config, cache_dir=tmp_path)
    write_task(folder, "tiny_one", items=12, seed=9)
    after = load_tasks(config, cache_dir=tmp_path)
    assert before.fingerprint == again.fingerprint != after.fingerprint


@pytest.mark.slow
def test_unknown_task_names_the_nearest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown lm-eval task 'helaswag'; nearest: .*hellaswag"):
        check_tasks(Evaluation(tasks=["helaswag"]), cache_dir=tmp_path)


def test_missing_include_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="include_path=nowhere: no such folder"):
        check_tasks(Evaluation(tasks=["mine"], include_path="nowhere"), cache_dir=tmp_path)


def test_task_without_its_data_says_what_to_do_offline(folder: Path, tmp_path: Path) -> None:
    (folder / "tiny_two.jsonl").unlink()
    with pytest.raises(InputError, match=r"'tiny_two' cannot be loaded: .*evaluation.include_path=DIR"):
        load_tasks(Evaluation(tasks=["tiny_two"], include_path=str(folder)), cache_dir=tmp_path)
