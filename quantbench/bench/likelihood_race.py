"""One lm-eval task scored by our model class and by lm-eval's, in turns, request by request and item by item."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantbench.bench.stopwatch import Stopwatch
from quantbench.errors import InputError
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.tasks import TaskScores, load_tasks, score_tasks
from quantbench.models.load import LoadedModel


@dataclass(frozen=True)
class TaskRace:
    """Median seconds of scoring a task's requests (tokenization included), and how far the two sides are apart.

    ours, theirs: by the clock; processor_ours, processor_theirs: of all threads, which others on the machine disturb
    less; largest_difference: of a request's log-likelihood in nats; different_greedy: requests that only one side calls
    greedy; different_items: items whose metrics (acc, acc_norm ...) differ.
    """

    task: str
    requests: int
    ours: float
    theirs: float
    processor_ours: float
    processor_theirs: float
    largest_difference: float
    different_greedy: int
    different_items: int
    scores: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.theirs / self.ours


class _Timed:
    """Records what a model class answers to lm-eval's requests, and how long it takes."""

    def __init__(self, lm: Any) -> None:
        self.answers: list[tuple[float, bool]] = []
        self.stopwatch = Stopwatch()
        self._answer = lm.loglikelihood
        lm.loglikelihood = self._timed

    def _timed(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.answers = list(self.stopwatch.time(lambda: self._answer(requests, disable_tqdm=True)))
        return self.answers


def race_task(loaded: LoadedModel, config: Evaluation, *, repeats: int, rival_batch: int, cache_dir: Path) -> TaskRace:
    """Score ``config``'s task with both, ``repeats`` times.

    Raises:
        InputError: the task asks for no log-likelihoods.
    """
    from lm_eval.models.huggingface import HFLM

    from quantbench.evaluation.language_model import SharedPrefixLM

    tasks = load_tasks(config, cache_dir=cache_dir)
    assert tasks is not None
    tokenizer = loaded.tokenizer
    ours = SharedPrefixLM(loaded.model, tokenizer, batch_size=1)
    theirs = HFLM(pretrained=loaded.model, tokenizer=copy.deepcopy(tokenizer), batch_size=rival_batch)
    timed, scores = {}, {}
    for name, lm in (("ours", ours), ("theirs", theirs)):
        timed[name] = _Timed(lm)
    for _ in range(repeats):
        for name, lm in (("ours", ours), ("theirs", theirs)):
            scores[name] = score_tasks(tasks, lm, config)
    answers = timed["ours"].answers, timed["theirs"].answers
    if not answers[0]:
        raise InputError(f"{config.tasks[0]} asks for no log-likelihoods: nothing to compare")
    return TaskRace(
        task=config.tasks[0],
        requests=len(answers[0]),
        ours=timed["ours"].stopwatch.median,
        theirs=timed["theirs"].stopwatch.median,
        processor_ours=timed["ours"].stopwatch.processor_median,
        processor_theirs=timed["theirs"].stopwatch.processor_median,
        largest_difference=max(abs(a - b) for (a, _), (b, _) in zip(*answers, strict=True)),
        different_greedy=sum(a != b for (_, a), (_, b) in zip(*answers, strict=True)),
        different_items=_different_items(scores["ours"], scores["theirs"]),
        scores={score.metric: score.value for score in scores["ours"]},
    )


def _different_items(ours: list[TaskScores], theirs: list[TaskScores]) -> int:
    """Items for which a metric that counts answers differs."""
    different: set[str] = set()
    for a, b in zip(ours, theirs, strict=True):
        assert (a.metric, a.keys) == (b.metric, b.keys)
        if a.kind == "mean":
            different |= {key for key, x, y in zip(a.keys, a.values, b.values, strict=True) if x != y}
    return len(different)
