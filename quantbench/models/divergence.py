"""How far the model's predictions move when the weights of one linear change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantbench.models.capture import BlockInputs, block_inputs, returns_tuple, run_block
from quantbench.models.linear import linear_at
from quantbench.models.sensitivity import Sensitivity, Trial
from quantbench.models.structure import Block, Structure

_TOKENS = 256  # logits of so many tokens at a time
_KEPT_BYTES = 2**29  # of predictions in full precision, which every trial is compared with


class OneLinearDivergence(Sensitivity):
    """KL(full precision || model with one rounded linear), mean over tokens, in nats.

    The blocks before the rounded linear are run once for all; those from there on are run for every trial. ``model``
    stays on ``device`` while this is used; its weights are put back after each trial.
    """

    def __init__(self, model: nn.Module, structure: Structure, ids: Tensor, device: torch.device) -> None:
        """ids: [samples, seqlen]."""
        self.model, self.structure, self.device = model.to(device), structure, device
        ids = ids.to(device)
        self.wrap = returns_tuple(model, structure, ids)
        self.inputs = block_inputs(model, structure, list(ids.split(1)))
        self.last = self._after(structure.blocks[0])
        head: Any = structure.head
        kept = 4 * ids.numel() * len(head.weight) <= _KEPT_BYTES
        self._full = [list(self._log_predictions(states)) for states in self.last] if kept else None

    def advance(self, block: Block) -> None:
        self.inputs = BlockInputs([self._run(block, hidden) for hidden in self.inputs.hidden], self.inputs.calls)

    def loss(self, trial: Trial) -> float:
        linear = linear_at(trial.block.module, trial.name)
        kept = linear.weight.data
        try:
            linear.weight.data = trial.rounded.to(kept)
            return self.of_change_in(trial.block)
        finally:
            linear.weight.data = kept

    def of_change_in(self, block: Block) -> float:
        """The divergence of the model as it now is, changed in ``block`` alone."""
        changed = self._after(block)
        total = sum(self._divergence(sample, states) for sample, states in enumerate(changed))
        return total / sum(hidden.shape[1] for hidden in self.last)

    def _after(self, block: Block) -> list[Tensor]:
        """Hidden states after the last block, from those before ``block``."""
        states = []
        for hidden in self.inputs.hidden:
            for later in self.structure.blocks[block.index :]:
                hidden = self._run(later, hidden)
            states.append(hidden)
        return states

    def _run(self, block: Block, hidden: Tensor) -> Tensor:
        return run_block(block.module, hidden, self.inputs.call(block.index, hidden), self.device)

    @torch.no_grad()
    def _divergence(self, sample: int, changed: Tensor) -> float:
        """Sum over tokens of the divergence between predictions in full precision and those from ``changed`` states."""
        full = self._log_predictions(self.last[sample]) if self._full is None else self._full[sample]
        total = torch.zeros((), dtype=torch.float64)
        for log_p, log_q in zip(full, self._log_predictions(changed), strict=True):
            total += F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).double().sum().cpu()
        return float(total)

    def _log_predictions(self, states: Tensor) -> Iterator[Tensor]:
        """Logarithms of the probabilities of the next token, for states [1, seqlen, hidden], some tokens at a time."""
        for part in states.split(_TOKENS, 1):
            yield self.logits(part).float().log_softmax(-1)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """What the model makes of states after its last block [1, tokens, hidden]."""
        with _passing(self.structure, states, self.wrap):
            ids = torch.zeros(states.shape[:2], dtype=torch.long, device=self.device)
            return self.model(input_ids=ids, use_cache=False).logits


@contextmanager
def _passing(structure: Structure, states: Tensor, wrap: bool) -> Iterator[None]:
    """While open, the blocks compute nothing and the last one hands on ``states``."""

    def passing(*args: Any, **kwargs: Any) -> Any:
        return (states,) if wrap else states

    try:
        for block in structure.blocks:
            block.module.forward = passing
        yield
    finally:
        for block in structure.blocks:
            del block.module.forward
