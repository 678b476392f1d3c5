"""What replacing weights does to the output of the module that they are in."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantbench.models.capture import Call, first_of, to_device
from quantbench.models.linear import linear_at
from quantbench.models.structure import Site


class ModuleError:
    """Mean squared change of a submodule's output when the weights of a site's linears are replaced."""

    def __init__(
        self, block: nn.Module, site: Site, calls: Sequence[Call], reference: Sequence[Tensor], device: torch.device
    ) -> None:
        """reference: what the submodule gave for ``calls`` with its weights as they are."""
        assert site.parent is not None
        self.device, self.calls, self.reference = device, calls, reference
        self.module = block.get_submodule(site.parent)
        self.linears = [linear_at(block, name) for name in site.linears]

    @torch.no_grad()
    def __call__(self, weights: Sequence[Tensor], limit: float = math.inf) -> float:
        """The error for replacement weights [out_i, in], one for each linear of the site.

        limit: an error above it need not be known exactly; the sum over calls stops where it is passed.
        """
        count = sum(reference.numel() for reference in self.reference)
        kept, total = [linear.weight.data for linear in self.linears], 0.0
        try:
            for linear, weight in zip(self.linears, weights, strict=True):
                linear.weight.data = weight.to(linear.weight.dtype)
            for call, reference in zip(self.calls, self.reference, strict=True):
                args, kwargs = to_device(call, self.device)
                output = first_of(self.module(*args, **kwargs)).float()
                total += float((output - reference.to(self.device).float()).square().sum())
                if total / count > limit:
                    break
        finally:
            for linear, weight in zip(self.linears, kept, strict=True):
                linear.weight.data = weight
        return total / count
