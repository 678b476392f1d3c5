"""How far the quantized model's predictions are from full precision's: KL divergence and top-1 agreement."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

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

    KL = sum_v p(v) (log p(v) - log q(v)), p full precision and q the model, each with its own readout. Logits, softmax
    and divergence in fp32, sums over targets in fp64.
    """
    totals = torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        for piece in pieces(states, targets, vocabulary):
            logits = readout.logits(states[piece])
            full_logits = full_readout.logits(full_states[piece].to(states.device))
            nll = F.cross_entropy(logits, targets[piece].to(logits.device), reduction="none")
            log_q, log_p = logits.log_softmax(-1), full_logits.log_softmax(-1)
            kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
            same = logits.argmax(-1) == full_logits.argmax(-1)
            totals += torch.stack([nll.double().sum(), kl.double().sum(), same.double().sum()]).cpu()
    nll_sum, kl_sum, same_sum = totals.tolist()
    count = len(targets)
    return Comparison(nll_sum / count, kl_sum / count, same_sum / count)
