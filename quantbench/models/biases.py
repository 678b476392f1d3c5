"""Biases where a model has none, so that a constant can be taken from the inputs of its linears and given back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quantbench.models.structure import Site


def can_shift(block: nn.Module, site: Site) -> bool:
    """Whether a constant taken from the site's inputs can be put into biases, once there are some.

    A norm must produce them and hand them straight to linears: a router that is none takes no bias.
    """
    fold = site.fold
    if fold is None or fold.norm_offset is None:
        return False
    return all(isinstance(block.get_submodule(name), nn.Linear) for name in fold.consumers)


def add_site_biases_(block: nn.Module, site: Site) -> None:
    """Give the site's producer and readers biases of zero where they have none; nothing else changes."""
    assert site.fold is not None
    for name in (site.fold.producer, *site.fold.consumers):
        module = block.get_submodule(name)
        if getattr(module, "bias", None) is None:
            add_bias_(module)


def add_bias_(module: nn.Module) -> Callable[[], None]:
    """Give a linear or a norm without bias one of zero, which its output is added to. Returns what takes it away."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)
    if isinstance(module, nn.Linear):  # which has a place for it
        module.bias = bias
        return lambda: setattr(module, "bias", None)
    module.register_parameter("bias", bias)
    handle = module.register_forward_hook(_plus_bias)

    def remove() -> None:
        handle.remove()
        del module.bias

    return remove


def _plus_bias(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    assert isinstance(module.bias, torch.Tensor)
    return output + module.bias
