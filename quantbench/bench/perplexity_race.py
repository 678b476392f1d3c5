"""Perplexity by ours and by the loop that every quantization repository has, in turns on the same windows."""

import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantbench.bench.stopwatch import Stopwatch
from quantbench.evaluation.config import Evaluation
from quantbench.evaluation.evaluate import baseline, measure, prepare
from quantbench.evaluation.protocols import Window
from quantbench.evaluation.scoring import nll_windows
from quantbench.models.load import LoadedModel

# Where a forward pass spends its time, by the operators that torch's profiler names.
_KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_efficient_attention",
                  "aten::_flash_attention_forward"),
    "loss": ("aten::_log_softmax", "aten::nll_loss_forward"),
}  # fmt: skip


@dataclass(frozen=True)
class PerplexityRace:
    """Median seconds over all windows. with_divergence: ours, KL and top-1 agreement included, full precision's states
    read from disk; relative_difference: of the two perplexities; shares: of the textbook loop's processor time."""

    windows: int
    ours: float
    theirs: float
    with_divergence: float
    processor_ours: float
    processor_theirs: float
    processor_with_divergence: float
    perplexity: float
    relative_difference: float
    shares: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.theirs / self.ours


def race_perplexity(loaded: LoadedModel, config: Evaluation, *, repeats: int) -> PerplexityRace:
    """Score ``config``'s windows with both, ``repeats`` times."""
    model: Any = loaded.model
    context = model.config.get_text_config().max_position_embeddings
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(config, loaded.tokenizer, max_context=context, cache_dir=Path(folder))
        windows = prepared.window_set.windows
        base = baseline(prepared, model, identity={"bench": "evaluation"}, cache_dir=Path(folder))
        watches = Stopwatch(), Stopwatch(), Stopwatch()
        ours, theirs = [0.0], [0.0]
        for _ in range(repeats):
            ours = watches[0].time(lambda: [float(v) for v in nll_windows(model, windows)])
            theirs = watches[1].time(lambda: [textbook_nll(model, window) for window in windows])
            watches[2].time(lambda: measure(prepared, base, model))
    perplexities = [math.exp(statistics.fmean(values)) for values in (ours, theirs)]
    return PerplexityRace(
        windows=len(windows),
        ours=watches[0].median,
        theirs=watches[1].median,
        with_divergence=watches[2].median,
        processor_ours=watches[0].processor_median,
        processor_theirs=watches[1].processor_median,
        processor_with_divergence=watches[2].processor_median,
        perplexity=perplexities[0],
        relative_difference=perplexities[0] / perplexities[1] - 1,
        shares=_shares(model, windows[0]),
    )


def textbook_nll(model: Any, window: Window) -> float:
    """Mean NLL of a window, as transformers computes it when it is given labels."""
    with torch.no_grad():
        ids = window.ids[None].to(model.device)
        return float(model(ids, labels=ids).loss)


def _shares(model: Any, window: Window) -> dict[str, float]:
    """Shares of the processor's time that one textbook pass spends in each kind of operator."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        textbook_nll(model, window)
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    total = sum(times.values())
    shares = {kind: sum(times.get(name, 0.0) for name in names) / total for kind, names in _KINDS.items()}
    return shares | {"the rest": 1 - sum(shares.values())}
