"""Computing an evaluation's matrix products in bfloat16, where the user asks for it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOG = logging.getLogger(__name__)


@contextmanager
def computing(compute: str, device: torch.device) -> Iterator[None]:
    """What runs inside computes as ``evaluation.compute`` says: ``model``, the model's own dtype, or ``bfloat16``.

    bfloat16 rounds the inputs of the decoder blocks' products and of attention to 8 bits and keeps residuals, norms,
    logits and softmax as they are. The output head keeps its own dtype; a CPU with AMX may round its inputs too.
    """
    if compute == "model":
        yield
        return
    if device.type == "cpu" and not has_amx():
        _LOG.warning("evaluation.compute=bfloat16: this CPU has no AMX, and float32 is the faster of the two here")
    with _products("medium"), torch.autocast(device.type, torch.bfloat16):
        yield


@contextmanager
def as_loaded(device: torch.device, *, products: str | None = None) -> Iterator[None]:
    """What runs inside computes in the model's own dtype, whatever is around it; products: torch's precision of fp32
    products (None: as it is)."""
    with _products(products or torch.get_float32_matmul_precision()), torch.autocast(device.type, enabled=False):
        yield


def has_amx() -> bool:
    """Whether this machine's processor multiplies bfloat16 tiles."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
