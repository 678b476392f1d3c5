"""lm-eval tasks on a model in memory, item by item."""

import functools
import hashlib
import json
import logging
import random
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantbench.errors import InputError
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.likelihood import Layout

_WORLD_PREFIX = "world_"
# The seeds of lm-eval's own command line, so that few-shot examples are the ones it would draw.
_PYTHON_SEED, _OTHER_SEED = 0, 1234


@dataclass(frozen=True)
class TaskScores:
    """One metric of one task. keys, values: per item; kind: how they make ``value``: ``mean``, ``exp_mean`` (values are
    negative log-likelihoods) or ``whole`` (the metric has no per-item values)."""

    task: str
    metric: str
    kind: str
    value: float
    keys: tuple[str, ...]
    values: tuple[float, ...]
    higher_is_better: bool


@dataclass(frozen=True)
class TaskSet:
    """Loaded lm-eval tasks: the leaf tasks behind every asked name, and the sha256 of their settings and items.

    layouts: requests that were encoded and laid out, for the next model with the same tokenizer and width.
    """

    leaves: dict[str, list[Any]]
    fingerprint: str
    layouts: dict[Hashable, Layout] = field(default_factory=dict, compare=False, repr=False)


def check_tasks(config: Evaluation, *, cache_dir: Path) -> None:
    """Check that every task exists; needs neither a model nor the tasks' data.

    Raises:
        InputError: an unknown task name (with the nearest existing ones), or include_path is not a folder.
    """
    if config.tasks:
        _manager_for(config, cache_dir)


def load_tasks(config: Evaluation, *, cache_dir: Path) -> TaskSet | None:
    """Load the tasks with their data; None when the evaluation names none.

    Raises:
        InputError: an unknown task name, or a task whose data cannot be loaded.
    """
    if not config.tasks:
        return None
    manager = _manager_for(config, cache_dir)
    leaves: dict[str, list[Any]] = {}
    digest = hashlib.sha256()
    with _quiet():
        for name in config.tasks:
            try:
                leaves[name] = list(manager.load([name])["tasks"].values())
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise InputError(
                    f"the data of lm-eval task {name!r} cannot be loaded: {reason}. Without access to the Hub, give a "
                    "folder of task yaml files that read local data: evaluation.include_path=DIR"
                ) from error
            for leaf in leaves[name]:
                _configure(leaf, config.num_fewshot)
                leaf.build_all_requests = _BuiltOnce(leaf)
                digest.update(_description(leaf, config.limit).encode("utf-8", "surrogatepass"))
    return TaskSet(leaves, digest.hexdigest())


def run_tasks(tasks: TaskSet, model: Any, tokenizer: Any, config: Evaluation) -> list[TaskScores]:
    """Score ``model`` on ``tasks`` with lm-eval's own code and defaults."""
    from quantbench.evaluation.language_model import SharedPrefixLM

    with _quiet():
        lm = SharedPrefixLM(model, tokenizer, batch_size=config.batch_size, layouts=tasks.layouts)
        return score_tasks(tasks, lm, config)


def score_tasks(tasks: TaskSet, lm: Any, config: Evaluation) -> list[TaskScores]:
    """Score an lm-eval model class on ``tasks``.

    A group or tag (``mmlu``) gives one score per metric over the items of all its tasks together.
    """
    from lm_eval.evaluator import evaluate

    unique = {leaf.task_name: leaf for leaves in tasks.leaves.values() for leaf in leaves}
    with _quiet():
        random.seed(_PYTHON_SEED)
        np.random.seed(_OTHER_SEED)
        torch.manual_seed(_OTHER_SEED)
        for leaf in unique.values():
            leaf.set_fewshot_seed(seed=_OTHER_SEED)
        results = evaluate(lm=lm, task_dict={"tasks": unique, "groups": {}}, limit=config.limit, bootstrap_iters=0)
    assert results is not None
    return [score for name, leaves in tasks.leaves.items() for score in _scores(name, leaves, results)]


def _manager_for(config: Evaluation, cache_dir: Path) -> Any:
    folders: list[str] = []
    if any(name.startswith(_WORLD_PREFIX) for name in config.tasks):
        from quantbench.data.world import write_tasks

        folder = cache_dir / "tasks" / "world"
        write_tasks(folder)
        folders.append(str(folder.resolve()))
    if config.include_path is not None:
        include = Path(config.include_path).expanduser()
        if not include.is_dir():
            raise InputError(f"evaluation.include_path={config.include_path}: no such folder of task yaml files")
        folders.append(str(include.resolve()))
    # lm-eval's own index reads 14,000 files; local tasks do not need it.
    for defaults in (False, True):
        manager = _manager(tuple(folders), defaults)
        unknown = [name for name in config.tasks if name not in manager.task_index]
        if not unknown:
            return manager
    near = get_close_matches(unknown[0], manager.all_tasks, n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise InputError(
        f"unknown lm-eval task {unknown[0]!r}{hint} (allowed: lm-eval's task names, the world_* tasks, and those in "
        "evaluation.include_path)"
    )


@functools.lru_cache(maxsize=4)
def _manager(folders: tuple[str, ...], defaults: bool) -> Any:
    with _quiet():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=list(folders), include_defaults=defaults)


def _configure(leaf: Any, num_fewshot: int | None) -> None:
    """lm-eval's rule: a task that sets 0 examples keeps 0; otherwise the asked number, or the task's own, or 0."""
    own = leaf.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        leaf.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        leaf.set_config(key="num_fewshot", value=0)


class _BuiltOnce:
    """Gives a task's requests again, unanswered, instead of rendering its prompts for every model."""

    def __init__(self, leaf: Any) -> None:
        self._leaf, self._build, self._settings = leaf, leaf.build_all_requests, dict[str, Any]()

    def __call__(self, **settings: Any) -> None:
        if settings != self._settings:
            self._build(**settings)
            self._settings = settings
        for request in self._leaf.instances:
            request.resps, request.filtered_resps = [], {}


def _description(leaf: Any, limit: int | None) -> str:
    documents = [document for _, document in leaf.doc_iterator(limit=limit)]
    config = {key: value for key, value in leaf.dump_config().items() if not callable(value)}
    return json.dumps([leaf.task_name, config, documents], sort_keys=True, default=_stable_name)


def _stable_name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _scores(name: str, leaves: list[Any], results: Any) -> Iterator[TaskScores]:
    samples = {leaf.task_name: results["samples"][leaf.task_name] for leaf in leaves}
    first = samples[leaves[0].task_name]
    metrics = dict.fromkeys((metric, sample["filter"]) for sample in first for metric in sample["metrics"])
    for metric, filter_name in metrics:
        label = metric if filter_name == "none" else f"{metric},{filter_name}"
        kind = _kind(leaves[0], metric)
        higher = bool(leaves[0].higher_is_better().get(metric, True))
        if kind == "whole":
            if len(leaves) == 1:
                value = results["results"][leaves[0].task_name].get(f"{metric},{filter_name}")
                if isinstance(value, int | float):
                    yield TaskScores(name, label, kind, float(value), (), (), higher)
            continue
        items = [
            (f"{leaf}/{sample['doc_id']}" if len(leaves) > 1 else str(sample["doc_id"]), float(sample[metric]))
            for leaf, rows in samples.items()
            for sample in rows
            if sample["filter"] == filter_name and metric in sample
        ]
        keys, values = (tuple(column) for column in zip(*items, strict=True))
        if kind == "exp_mean":
            values = tuple(-value for value in values)
        mean = float(np.mean(values))
        value = float(np.exp(mean)) if kind == "exp_mean" else mean
        yield TaskScores(name, label, kind, value, keys, values, higher)


def _kind(leaf: Any, metric: str) -> str:
    from lm_eval.api.metrics import mean, perplexity

    aggregation = leaf.aggregation().get(metric)
    return {mean: "mean", perplexity: "exp_mean"}.get(aggregation, "whole")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's and datasets' logging and progress bars out of the run's own output."""
    import datasets
    import lm_eval.api.task as task_module
    import lm_eval.models.huggingface as model_module

    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = task_module.tqdm, model_module.tqdm
    datasets_bars = datasets.are_progress_bars_disabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        # Two of lm-eval's bars have no switch.
        task_module.tqdm = model_module.tqdm = functools.partial(bars[0], disable=True)
        yield
    finally:
        task_module.tqdm, model_module.tqdm = bars
        if not datasets_bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
