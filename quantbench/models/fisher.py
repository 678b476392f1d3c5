"""Fisher information of weights: squared gradients of the language-modelling loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.progress import track


def fisher_information(
    model: nn.Module, linears: Sequence[str], ids: Tensor, *, device: torch.device
) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of each sample's loss, for the weights of the named linears.

    ids: [samples, seqlen]; the loss of a sample is the mean cross-entropy of its next tokens. Returns fp32 [out, in] on
    the host, by linear. That is the diagonal of the empirical Fisher information, as SqueezeLLM (arXiv 2306.07629)
    approximates the Hessian of the loss. The model, which comes from the host and goes back, is left as it was; beside
    it there are the squares and, one matrix at a time, the gradients.

    Raises:
        QuantizationError: a gradient is not finite.
    """
    weights = {name: _weight(model, name) for name in linears}
    try:
        model.to(device)
        squares = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        with _gradients_to(weights, squares), torch.enable_grad():
            for sample in track(ids, stage="fisher", unit="sample", total=len(ids)):
                sample = sample.to(device)
                logits = model(input_ids=sample[None], use_cache=False).logits[0, :-1].float()
                nn.functional.cross_entropy(logits, sample[1:]).backward()
    finally:
        model.to("cpu")
    for name, square in squares.items():
        if not bool(torch.isfinite(square).all()):
            raise QuantizationError(f"{name}: squared gradients hold NaN or Inf")
    return {name: (square / len(ids)).cpu() for name, square in squares.items()}


@contextmanager
def _gradients_to(weights: dict[str, nn.Parameter], squares: dict[str, Tensor]) -> Iterator[None]:
    """While open, a backward pass adds each weight's squared gradient to ``squares`` and keeps no gradient."""
    handles = []
    try:
        for name, weight in weights.items():
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(_squaring(squares[name])))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None


def _squaring(total: Tensor) -> Callable[[Tensor], None]:
    @torch.no_grad()
    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        total.add_(weight.grad.float().square())
        weight.grad = None

    return add


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, nn.Parameter)
    return weight
