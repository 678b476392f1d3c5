"""One evaluation in three steps: prepare (text, windows, tasks), baseline (full precision), measure (any model)."""

import logging
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from quantbench.data.corpora import Documents, load_documents, tokenize
from quantbench.errors import InputError
from quantbench.evaluation.baseline import Baseline, BaselineWriter, DamagedBaselineError, cache_key, read_baseline
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.divergence import compare
from quantbench.evaluation.precision import computing
from quantbench.evaluation.protocols import WindowSet, make_windows
from quantbench.evaluation.results import corpus_measurements, task_measurements
from quantbench.evaluation.scoring import mean_nll, model_device, nll_windows, readout_of, target_states, vocabulary_of
from quantbench.evaluation.tasks import TaskSet, load_tasks, run_tasks
from quantbench.measurement import Measurement

_LOG = logging.getLogger(__name__)
_FORMAT = 2


@dataclass(frozen=True)
class Prepared:
    """Everything an evaluation needs besides a model. floor [windows]: the text's own entropy in nats per target,
    where it is known (the embedded world)."""

    config: Evaluation
    tokenizer: Any
    documents: Documents
    window_set: WindowSet
    tasks: TaskSet | None
    floor: NDArray[np.float64] | None

    @property
    def hash(self) -> str:
        """sha256 of the scored token ids and how they are scored."""
        return self.window_set.hash

    @property
    def longest_window(self) -> int:
        """Tokens of the longest forward pass over the text."""
        return max(len(window.ids) for window in self.window_set.windows)


def prepare(config: Evaluation, tokenizer: Any, *, max_context: int, cache_dir: Path) -> Prepared:
    """Load the text and the tasks and cut the windows: everything that can fail on wrong input, before any model runs.

    max_context: the model's longest sequence in tokens; cache_dir: where the embedded world's tasks are written.

    Raises:
        InputError: text or tasks cannot be loaded, the text is shorter than one window, the window exceeds the context.
    """
    if config.latency_batches and config.latency_prompt + config.latency_tokens > max_context:
        raise InputError(
            f"evaluation.latency_prompt={config.latency_prompt} and {config.latency_tokens} tokens more: the model's "
            f"context has {max_context}"
        )
    tasks = load_tasks(config, cache_dir=cache_dir)
    documents = load_documents(config.corpus, config.split)
    windows = make_windows(
        config.protocol, documents, tokenizer, max_context=max_context, max_windows=config.max_windows
    )
    floor = _window_floor(documents, windows, tokenizer) if documents.name == "world" else None
    return Prepared(config, tokenizer, documents, windows, tasks, floor)


def baseline(prepared: Prepared, model: Any, *, identity: dict[str, Any], cache_dir: Path) -> Baseline:
    """Full precision's results, from the cache when the same model, text, settings and dtype were scored before.

    identity: what identifies the model's weights (JSON values); ``model`` must still be in full precision.
    """
    key = _identity(prepared, model, identity)
    folder = cache_dir / "baseline" / cache_key(key)
    if folder.exists():
        try:
            return read_baseline(folder)
        except DamagedBaselineError as error:
            _LOG.warning("full precision's cached results in %s are damaged (%s): computing them again", folder, error)
            shutil.rmtree(folder)
    writer = BaselineWriter(folder)
    try:
        with computing(prepared.config.compute, model_device(model)):
            nll, softcap = _score_full_precision(prepared, model, writer)
            scores = run_tasks(prepared.tasks, model, prepared.tokenizer, prepared.config) if prepared.tasks else []
        writer.commit(nll, scores, softcap, key)
    except BaseException:
        writer.discard()
        raise
    return read_baseline(folder)


def measure(prepared: Prepared, base: Baseline, model: Any | None = None) -> list[Measurement]:
    """The measurements of ``model`` against full precision ``base``; without a model, those of full precision itself.

    Per corpus: perplexity (with its confidence interval and per-sample NLL), perplexity_ratio (paired), kl_divergence,
    top1_agreement and, where the text's entropy is known, entropy_floor. Per task: its metrics and flips.
    """
    if model is None:
        corpus = corpus_measurements(prepared.documents.name, prepared.window_set, base.nll, floor=prepared.floor)
        return corpus + task_measurements(base.scores, None)
    with computing(prepared.config.compute, model_device(model)):
        nll, kl, agreement = _score(prepared, base, model)
        scores = run_tasks(prepared.tasks, model, prepared.tokenizer, prepared.config) if prepared.tasks else []
    corpus = corpus_measurements(
        prepared.documents.name,
        prepared.window_set,
        nll,
        baseline=base.nll,
        kl=kl,
        agreement=agreement,
        floor=prepared.floor,
    )
    return corpus + task_measurements(scores, base.scores)


def _score_full_precision(
    prepared: Prepared, model: Any, writer: BaselineWriter
) -> tuple[NDArray[np.float64], float | None]:
    """Per-window NLL of full precision; with divergence asked for, its states and head go to the writer."""
    config, windows = prepared.config, prepared.window_set.windows
    if not config.divergence:
        return nll_windows(model, windows, batch_size=config.batch_size, stage="evaluate fp"), None
    readout = readout_of(model, windows[0].ids)
    if isinstance(readout.head, nn.Linear):
        writer.add_head(readout.head)
    else:
        readout = replace(readout, head=None)
    nll = np.full(len(windows), np.nan)
    for index, states in target_states(model, readout, windows, batch_size=config.batch_size, stage="evaluate fp"):
        if index == 0:
            writer.require(sum(len(window.targets) for window in windows) * states[0].nbytes)
        writer.add_states(index, states)
        nll[index] = mean_nll(readout, states, windows[index].targets, vocabulary=vocabulary_of(model))
    return nll, readout.softcap


def _score(
    prepared: Prepared, base: Baseline, model: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Per-window NLL, KL divergence and top-1 agreement, from one pass of the model."""
    config, windows = prepared.config, prepared.window_set.windows
    if not config.divergence:
        return nll_windows(model, windows, batch_size=config.batch_size), None, None
    readout, full_readout = readout_of(model, windows[0].ids), base.readout(model_device(model))
    nll, kl, agreement = (np.full(len(windows), np.nan) for _ in range(3))
    passes = target_states(model, readout, windows, batch_size=config.batch_size, stage="evaluate")
    for (index, states), full_states in zip(passes, base.states(), strict=True):
        result = compare(
            readout, states, full_readout, full_states, windows[index].targets, vocabulary=vocabulary_of(model)
        )
        nll[index], kl[index], agreement[index] = result.nll, result.kl, result.agreement
    return nll, kl, agreement


def _identity(prepared: Prepared, model: Any, identity: dict[str, Any]) -> dict[str, Any]:
    # Where the text and the tasks came from does not matter: their contents' hashes do.
    ignored = ("corpus", "split", "tasks", "include_path", "max_windows", "execution")
    timing = ("latency_batches", "latency_prompt", "latency_tokens")
    return {
        "format": _FORMAT,
        "model": identity,
        "dtype": str(model.dtype),
        "device": model_device(model).type,
        "evaluation": {name: value for name, value in asdict(prepared.config).items() if name not in ignored + timing},
        "windows": prepared.hash,
        "tasks": [prepared.tasks.fingerprint, list(prepared.tasks.leaves)] if prepared.tasks else None,
        "versions": {name: version(name) for name in ("torch", "transformers", "lm-eval")},
    }


def _window_floor(documents: Documents, window_set: WindowSet, tokenizer: Any) -> NDArray[np.float64] | None:
    """Mean entropy in nats per target of each window; None where a window is not a piece of the joined text, or the
    tokenizer is not the world's."""
    from quantbench.data import world

    floor = np.asarray(world.floor(documents.split), dtype=np.float64)
    if any(window.start is None for window in window_set.windows):
        return None
    if len(floor) != len(tokenize(tokenizer, documents.text)):
        return None
    starts = [(window.start or 0, window.first_target, len(window.ids)) for window in window_set.windows]
    return np.array([floor[start + first : start + length].mean() for start, first, length in starts])
