"""Log-likelihood of windows: the body's hidden states once, logits in pieces that fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from quantbench.evaluation.precision import as_loaded
from quantbench.evaluation.protocols import Window
from quantbench.progress import track

# 162 rows of SmolLM2's vocabulary: enough for a full-speed product, few enough that the next passes find the logits
# in the cache and that the memory allocator reuses the buffer (glibc gives those of 32 MiB back at once).
_LOGIT_ELEMENTS = 8_000_000
_PROBE_TOKENS = 16
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOW_PRECISION_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Readout:
    """From a model's states to its logits.

    head: the output projection of hidden states [n, hidden]; None where the states are already the model's own logits
    [n, vocabulary] (a model that does more to them than this class knows). softcap: Gemma 2's c tanh(x / c).
    """

    head: Callable[[torch.Tensor], torch.Tensor] | None
    softcap: float | None = None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, vocabulary] fp32 of states [n, hidden]."""
        if self.head is None:
            return states.float()
        with as_loaded(states.device):
            logits = self.head(states)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits.float()


def readout_of(model: Any, ids: torch.Tensor) -> Readout:
    """The readout of ``model``, proven on the first tokens of ``ids`` [L] against the model's own logits.

    Where applying the output embedding to the body's states does not give those logits (scaled logits, an unusual
    body), the readout takes the model's logits as they are: slower and larger, never different.
    """
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return Readout(None)
    readout = Readout(head, getattr(model.config.get_text_config(), "final_logit_softcapping", None))
    with torch.inference_mode(), as_loaded(model_device(model), products="highest"):
        prefix = ids[None, :_PROBE_TOKENS].to(model_device(model))
        states = getattr(model.base_model(input_ids=prefix, use_cache=False), "last_hidden_state", None)
        expected = model(input_ids=prefix, use_cache=False).logits[0].float()
        if states is None:
            return Readout(None)
        same = agrees(readout.logits(states[0]), expected, model.dtype)
    return readout if same else Readout(None)


def agrees(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether logits that a model in ``dtype`` gave in two ways differ by no more than its rounding."""
    tolerance = _TOLERANCE.get(dtype, _LOW_PRECISION_TOLERANCE) * expected.float().abs().max()
    return bool((found.float() - expected.float()).abs().max() <= tolerance)


def target_states(
    model: Any, readout: Readout, windows: Sequence[Window], *, batch_size: int, stage: str
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, states [T, hidden]) of every window in order: the states that predict its targets."""
    model.eval()
    device = model_device(model)
    batches = list(_batches(windows, batch_size))
    for batch in track(batches, stage=stage, unit="batch", total=len(batches)):
        # The last token predicts nothing that is scored.
        ids = torch.stack([windows[index].ids[:-1] for index in batch]).to(device)
        with torch.inference_mode():
            if readout.head is None:
                states = model(input_ids=ids, use_cache=False).logits
            else:
                states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.to(model.dtype)
        for row, index in enumerate(batch):
            yield index, states[row, windows[index].first_target - 1 :]


def pieces(count: int, vocabulary: int) -> Iterator[slice]:
    """Slices of ``count`` states whose fp32 logits stay within a fixed amount of memory."""
    rows = max(1, _LOGIT_ELEMENTS // vocabulary)
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def mean_nll(readout: Readout, states: torch.Tensor, targets: torch.Tensor, *, vocabulary: int) -> float:
    """Mean negative log-likelihood in nats of targets [T] given states [T, hidden]; softmax in fp32, sum in fp64."""
    assert len(states) == len(targets)
    total = 0.0
    with torch.inference_mode():
        for piece in pieces(len(states), vocabulary):
            logits = readout.logits(states[piece])
            losses = F.cross_entropy(logits, targets[piece].to(logits.device), reduction="none")
            total += float(losses.sum(dtype=torch.float64))
    return total / len(targets)


def nll_windows(
    model: Any, windows: Sequence[Window], *, batch_size: int = 1, stage: str = "evaluate"
) -> NDArray[np.float64]:
    """Mean NLL in nats over the targets of each window [windows]; the model's dtype and device, the loss in fp32."""
    readout = readout_of(model, windows[0].ids)
    values = np.full(len(windows), np.nan)
    for index, states in target_states(model, readout, windows, batch_size=batch_size, stage=stage):
        values[index] = mean_nll(readout, states, windows[index].targets, vocabulary=vocabulary_of(model))
    return values


def model_device(model: nn.Module) -> torch.device:
    """The device of the model's input embedding."""
    return next(model.parameters()).device


def vocabulary_of(model: Any) -> int:
    """Number of entries of the model's output distribution."""
    return int(model.config.get_text_config().vocab_size)


def _batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[int]]:
    """Consecutive windows of equal length, at most batch_size: no padding, so no attention mask."""
    batch: list[int] = []
    for index, window in enumerate(windows):
        if batch and (len(batch) == batch_size or len(window.ids) != len(windows[batch[0]].ids)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
