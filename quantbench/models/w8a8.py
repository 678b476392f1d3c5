"""The quantized linear layer computed in 8 bits: codes of inputs times codes of weights."""

import torch
from torch import Tensor, nn

from quantbench.formats import FP8, GroupParams, IntFormat, QuantizedWeight
from quantbench.kernels.w8a8 import MOST_COLUMNS, ByteWeight, multiplies, w8a8_linear
from quantbench.methods.activation import DecomposedQuantizer, DynamicQuantizer, InputQuantizer, StaticQuantizer

_BITS = 8


def codes_of(inputs: InputQuantizer | None) -> IntFormat | FP8 | None:
    """The format of codes that can be multiplied, one scale a token, that inputs are rounded to; None for others."""
    rest = inputs.rest if isinstance(inputs, DecomposedQuantizer) else inputs
    format = rest.format if isinstance(rest, DynamicQuantizer | StaticQuantizer) else None
    return format if isinstance(format, IntFormat | FP8) and format.group_size is None else None


def multiplies_in_8_bits(weight: QuantizedWeight, inputs: InputQuantizer | None, device: torch.device) -> bool:
    """Whether both sides are integers (weights of 8 bits, inputs of at most 8) or e4m3, with one scale a row.

    Everything else multiplies decoded weights with inputs that were quantized and decoded, which gives the same.
    """
    left, right = codes_of(inputs), weight.format
    one_kind = any(isinstance(left, kind) and isinstance(right, kind) for kind in (IntFormat, FP8))
    if not one_kind or right.bits != _BITS or weight.shape[1] > MOST_COLUMNS or weight.scale.shape[1] > 1:
        return False
    able = all(multiplies(f, device) for f in (left, right) if isinstance(f, IntFormat | FP8))
    return able and weight.outliers is None


class W8A8Linear(nn.Module):
    """y = q(x) W^T + b as a product of 8-bit codes, for the layer that ``quantized`` takes the place of.

    ``quantized`` stays on the host: it is what is counted and exported. inputs: q, one that :func:`codes_of` knows.
    """

    scale: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(
        self,
        quantized: QuantizedWeight,
        bias: Tensor | None,
        inputs: InputQuantizer,
        *,
        device: torch.device | None = None,
    ) -> None:
        """device: where it lies; default: where ``quantized`` is."""
        super().__init__()
        format = codes_of(inputs)
        assert format is not None
        self.quantized, self.inputs, self.input_format = quantized, inputs, format
        self.out_features, self.in_features = quantized.shape
        self._weight = byte_weight(quantized if device is None else quantized.to(device))
        for name, tensor in self._weight.tensors.items():
            self.register_buffer(name, tensor)
        if isinstance(inputs, StaticQuantizer):
            self.register_buffer("input_scale", inputs.params.scale.view(1).to(device))
            self.register_buffer("input_zero", inputs.params.zero_point.view(1).to(device))
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
        if isinstance(self.inputs, DecomposedQuantizer):
            y = self._decomposed(x, self.inputs)
        else:
            clip = self.inputs.clip if isinstance(self.inputs, DynamicQuantizer) else 1.0
            y = w8a8_linear(x, self.weight_on_device, self.input_format, self._known(x), clip=clip)
        return y if self.bias is None else y + self.bias

    def _known(self, x: Tensor) -> GroupParams | None:
        """Parameters of each token, where they do not come from the token alone."""
        if isinstance(self.inputs, StaticQuantizer):
            count = x.shape[:-1].numel()
            return GroupParams(self.input_scale.expand(count), self.input_zero.expand(count))
        assert isinstance(self.inputs, DynamicQuantizer)
        if self.inputs.per_token:
            return None
        tokens = x.shape[-2]
        params = self._of_range(x.reshape(-1, tokens * x.shape[-1]), self.inputs.clip)
        return params.map(lambda t: t.repeat_interleave(tokens))

    def _of_range(self, rows: Tensor, clip: float) -> GroupParams:
        low, high = rows.float().aminmax(dim=1)
        return self.input_format.params(low.clamp(max=0) * clip, high.clamp(min=0) * clip)

    def _decomposed(self, x: Tensor, inputs: DecomposedQuantizer) -> Tensor:
        """LLM.int8() (arXiv 2208.07339, eq. 8): channels with outliers in the dtype of x, all others in 8 bits."""
        outliers = inputs.outlier_channels(x)
        params = self._of_range(inputs.ranged(x).reshape(-1, x.shape[-1]), inputs.rest.clip)
        y = w8a8_linear(x.masked_fill(outliers, 0), self.weight_on_device, self.input_format, params)
        channels = outliers.flatten(0, -2).any(0).nonzero()[:, 0]
        apart = x.where(outliers, 0).index_select(-1, channels)
        return y + apart @ self.weight_on_device.columns(channels).to(x.dtype).T

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
