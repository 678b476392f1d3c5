"""Distillation: how far a student's predictions are from its teacher's."""

from torch import Tensor
from torch.nn.functional import kl_div


def distillation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over tokens, in nats; logits [..., vocabulary].

    The factor keeps gradients of one size for all temperatures (Hinton et al., arXiv 1503.02531, section 2).
    """
    log_p, log_q = ((logits.float() / temperature).log_softmax(-1) for logits in (teacher, student))
    return temperature**2 * kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean()
