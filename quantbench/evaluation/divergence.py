"""How far the quantized model's predictions are from full precision's: KL divergence and top-1 agreement."""

from dataclasses import dataclass

import torch

from quantbench.evaluation.scoring import Readout, pieces


@dataclass(frozen=True)
class Comparison:
    """Means over the targets of one window: NLL of the model, KL(full precision || model) in nats, top-1 agreement."""

    nll: float
    kl: float
    agreement: float


def compare(
    readout: Readout,
    states: torch.Tensor,
    full_readout: Readout,
    full_states: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocabulary: int,
) -> Comparison:
    """Compare the predictions from states [T, hidden] with full precision's, exactly, over the whole vocabulary.

    With p full precision, q the model and l their logits, each from its own readout:
    KL = sum_v p(v) (log p(v) - log q(v)) = sum_v p(v) (l_p(v) - l_q(v)) - logsumexp(l_p) + logsumexp(l_q), so that
    neither log-distribution is written out. Logits, softmax and divergence in fp32, sums over targets in fp64.
    """
    assert len(states) == len(full_states) == len(targets)
    totals = torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        for piece in pieces(len(states), vocabulary):
            logits = readout.logits(states[piece])
            full_logits = full_readout.logits(full_states[piece].to(states.device))
            at_target = logits.gather(-1, targets[piece].to(logits.device)[:, None])[:, 0]
            normaliser, token, _ = _softmax(logits)
            full_normaliser, full_token, p = _softmax(full_logits)
            kl = torch.linalg.vecdot(p, full_logits - logits) - full_normaliser + normaliser
            found = normaliser - at_target, kl, token == full_token
            totals += torch.stack([values.double().sum() for values in found]).cpu()
    nll_sum, kl_sum, same_sum = totals.tolist()
    count = len(targets)
    return Comparison(nll_sum / count, kl_sum / count, same_sum / count)


def _softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logsumexp [T], likeliest token [T] and probabilities [T, V] of logits [T, V], in two passes over them."""
    highest, token = logits.max(-1)
    probabilities = logits.softmax(-1)
    # The likeliest token's log-probability is its logit less the normaliser; it is never far below zero.
    return highest - probabilities.gather(-1, token[:, None])[:, 0].log(), token, probabilities
