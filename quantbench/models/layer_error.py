"""How far a quantized linear is from the one in full precision, by itself."""

import torch
from torch import Tensor

from quantbench.formats import QuantizedWeight
from quantbench.layers import LayerError
from quantbench.methods.stats import SiteStats

_TINY = torch.finfo(torch.float32).tiny  # so that a layer of zeros has an error of 0


@torch.no_grad()
def layer_error(weight: Tensor, quantized: QuantizedWeight, stats: SiteStats | None) -> LayerError:
    """The error of ``quantized`` against ``weight`` [out, in], fp32, which it was rounded from.

    stats: of the inputs that ``weight`` reads; None where they are not known.
    """
    delta = quantized.dequantize().to(weight) - weight
    relative = float(delta.square().sum()) / max(float(weight.square().sum()), _TINY)
    output = None
    if stats is not None and stats.count:
        # H has no negative eigenvalues, but a sum in fp32 that should be 0 can be below it
        output = max(stats.output_error(delta), 0.0) / max(stats.output_error(weight), _TINY)
    return LayerError(relative, output, weight.numel())
