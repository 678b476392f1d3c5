"""The quantized linear layer computed in 8 bits: codes of inputs times codes of weights."""

import torch
from torch import Tensor, nn

from quantbench.formats import FP8, GroupParams, IntFormat, QuantizedWeight
from quantbench.kernels.w8a8 import MOST_COLUMNS, ByteWeight, multiplies, w8a8_linear
from quantbench.methods.activation import DynamicQuantizer, InputQuantizer, StaticQuantizer

_BITS = 8


def multiplies_in_8_bits(weight: QuantizedWeight, inputs: InputQuantizer | None, device: torch.device) -> bool:
    """Whether both sides are integers (weights of 8 bits, inputs of at most 8) or e4m3, with one scale a row.

    Everything else multiplies decoded weights with inputs that were quantized and decoded, which gives the same.
    """
    if not isinstance(inputs, DynamicQuantizer | StaticQuantizer):
        return False
    if weight.outliers is not None or weight.shape[1] > MOST_COLUMNS:
        return False
    formats = weight.format, inputs.format
    one_kind = all(isinstance(f, IntFormat) for f in formats) or all(isinstance(f, FP8) for f in formats)
    if not one_kind or weight.format.bits != _BITS or inputs.format.group_size is not None:
        return False
    able = all(multiplies(f, device) for f in formats if isinstance(f, IntFormat | FP8))
    return able and weight.scale.shape[1] == 1


class W8A8Linear(nn.Module):
    """y = q(x) W^T + b as a product of 8-bit codes, for the layer that ``quantized`` takes the place of.

    ``quantized`` stays on the host: it is what is counted and exported. inputs: q.
    """

    scale: Tensor

    def __init__(
        self,
        quantized: QuantizedWeight,
        bias: Tensor | None,
        inputs: DynamicQuantizer | StaticQuantizer,
        *,
        device: torch.device | None = None,
    ) -> None:
        """device: where it lies; default: where ``quantized`` is."""
        super().__init__()
        self.quantized, self.inputs = quantized, inputs
        assert isinstance(inputs.format, IntFormat | FP8)
        self.input_format = inputs.format
        self.out_features, self.in_features = quantized.shape
        self._weight = byte_weight(quantized if device is None else quantized.to(device))
        for name, tensor in self._weight.tensors.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight_on_device(self) -> ByteWeight:
        """W as it is multiplied, wherever the module is."""
        return self._weight.with_tensors(dict(self.named_buffers(recurse=False)))

    def decoded(self) -> Tensor:
        """W, fp32 [out, in]."""
        return self.weight_on_device.dequantize()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., tokens, in] -> [..., tokens, out]."""
        y = w8a8_linear(x, self.weight_on_device, self.input_format, self._known(x), clip=self._clip)
        return y if self.bias is None else y + self.bias

    @property
    def _clip(self) -> float:
        return self.inputs.clip if isinstance(self.inputs, DynamicQuantizer) else 1.0

    def _known(self, x: Tensor) -> GroupParams | None:
        """Parameters of each token, where they do not come from the token alone."""
        if isinstance(self.inputs, StaticQuantizer):
            return self.inputs.params.map(lambda t: t.to(x.device).repeat(x.shape[:-1].numel()))
        if self.inputs.per_token:
            return None
        tokens = x.shape[-2]
        low, high = x.float().reshape(-1, tokens * x.shape[-1]).aminmax(dim=1)
        params = self.input_format.params(low.clamp(max=0) * self._clip, high.clamp(min=0) * self._clip)
        return params.map(lambda t: t.repeat_interleave(tokens))

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, format={self.quantized.format}, inputs={self.input_format}, multiplied in 8 bits"


def byte_weight(quantized: QuantizedWeight) -> ByteWeight:
    """A matrix of 8-bit codes with one scale a row, as it is multiplied."""
    scale, codes = quantized.scale[:, 0], quantized.codes
    if isinstance(quantized.format, FP8):
        return ByteWeight.of(codes.view(torch.float8_e4m3fn), scale)
    half = 2 ** (_BITS - 1)
    return ByteWeight.of((codes.short() - half).to(torch.int8), scale, quantized.zero_point[:, 0] - half)
