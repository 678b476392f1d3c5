"""The quantized linear layer in its packed execution: codes stay packed and are decoded as they are multiplied."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.formats import LUT, Format, IntBilevel, IntFormat, QuantizedWeight
from quantbench.formats.gguf import GGUFFormat
from quantbench.formats.scaled import ScaledTable
from quantbench.kernels.layout import PLANES, DeviceWeight, pack_words, packable
from quantbench.kernels.linear import dequantize, packed_linear
from quantbench.kernels.sparse import add_sparse
from quantbench.methods.activation import InputQuantizer
from quantbench.models.linear import QuantLinear, read
from quantbench.models.w8a8 import W8A8Linear, multiplies_in_8_bits

_NARROW = (torch.float16, torch.bfloat16)
_LAST_BIT = 2.0**-22


def check_packable(format: Format, columns: int) -> None:
    """Refuse a format that has no packed execution, for a matrix of so many input channels.

    Raises:
        ValueError: says why, and what is allowed, in one line.
    """
    execution = "evaluation.execution=packed"
    if not isinstance(format, IntFormat | IntBilevel | ScaledTable | LUT | GGUFFormat):
        raise ValueError(f"{execution}: {type(format).__name__} has none; allowed are the package's own formats")
    size = format.group_size or columns
    if format.bits not in PLANES:
        raise ValueError(f"{execution}: bits={format.bits} has none; allowed are {', '.join(map(str, PLANES))}")
    if not packable(format.bits, size, columns):
        raise ValueError(
            f"{execution}: group_size={size} at bits={format.bits} would share words between groups; allowed are whole "
            f"rows and multiples of {32 // PLANES[format.bits][0]}"
        )


def device_weight(quantized: QuantizedWeight) -> tuple[DeviceWeight, Tensor | None]:
    """A quantized matrix, without what is kept apart, as kernels read it.

    The second part is the order of its columns there, where it is not their own: sorted by group, so that those of a
    group are neighbours (act-order without static groups).

    Raises:
        ValueError: the format has no packed execution.
    """
    format, columns = quantized.format, quantized.shape[1]
    check_packable(format, columns)
    size, codes, order = format.group_size or columns, quantized.codes, None
    if quantized.group_index is not None:
        order = torch.argsort(quantized.group_index, stable=True)
        codes = codes[:, order]
        assert torch.equal(quantized.group_index[order], torch.arange(columns, device=order.device) // size)
    table = None
    if isinstance(format, ScaledTable):
        table = format.table(codes.device).values.nan_to_num(0.0)
    elif quantized.params.codebook is not None:  # [out, groups, 2^bits]
        table = _narrowed(quantized.params.codebook.transpose(0, 1).contiguous())
    weight = DeviceWeight(
        shape=quantized.shape,
        bits=format.bits,
        group_size=size,
        planes=pack_words(codes, format.bits),
        scale=_narrowed(quantized.scale.T.contiguous()),
        zero=0.0 if table is not None else _zero(quantized.zero_point.T.contiguous()),
        table=table,
        minimum=isinstance(format, GGUFFormat) and format.offset is None,
    )
    return weight, order


def _zero(zero: Tensor) -> Tensor | float:
    """Zero-points [groups, n] in the narrowest type that holds them; one number where all are equal."""
    first = float(zero.flatten()[0])
    if bool((zero == first).all()):
        return first
    codes = zero.clamp(0, 255).to(torch.uint8)
    return codes if torch.equal(codes.float(), zero) else _narrowed(zero)


def _narrowed(values: Tensor) -> Tensor:
    """fp32 values in 16 bits where these hold them exactly."""
    return next((short for dtype in _NARROW if torch.equal((short := values.to(dtype)).float(), values)), values)


def kept_apart(quantized: QuantizedWeight) -> dict[str, Tensor]:
    """What kept weights are beside what their codes stand for, in compressed rows; nothing where none are kept."""
    if quantized.outliers is None:
        return {}
    stored, index = quantized.outliers.pack(), quantized.outliers.index
    coded = replace(quantized, outliers=None).dequantize().flatten()[index]
    return {
        "kept_rows": stored["outlier_rows"],
        "kept_columns": stored["outlier_columns"].to(torch.int32),
        "kept_values": quantized.outliers.value - coded,
    }


class PackedLinear(nn.Module):
    """y = x W^T + b with W packed in memory, for the layer that ``quantized`` takes the place of.

    ``quantized`` stays on the host: it is what is counted and exported. inputs: what fake-quantizes x before. Weights
    that are kept apart are added to what their codes stand for, in compressed rows.
    """

    order: Tensor | None
    scale: Tensor
    kept_rows: Tensor
    kept_columns: Tensor
    kept_values: Tensor

    def __init__(
        self,
        quantized: QuantizedWeight,
        bias: Tensor | None,
        *,
        inputs: InputQuantizer | None = None,
        device: torch.device | None = None,
    ) -> None:
        """device: where it is packed and lies; default: where ``quantized`` is."""
        super().__init__()
        self.quantized, self.inputs = quantized, inputs
        self.out_features, self.in_features = quantized.shape
        self._weight, order = device_weight(quantized if device is None else quantized.to(device))
        for name, tensor in self._weight.tensors.items():
            self.register_buffer(name, tensor)
        self.register_buffer("order", None if order is None else order.to(torch.int32))
        for name, tensor in kept_apart(quantized if device is None else quantized.to(device)).items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight_on_device(self) -> DeviceWeight:
        """W as kernels read it, wherever the module is."""
        return self._weight.with_tensors(dict(self.named_buffers(recurse=False)))

    def decoded(self) -> Tensor:
        """W, fp32 [out, in], its columns where they were."""
        weight = dequantize(self.weight_on_device, torch.float32).T
        weight = weight if self.order is None else weight[:, torch.argsort(self.order)]
        if self.quantized.outliers is None:
            return weight
        rows = torch.arange(len(weight), device=weight.device).repeat_interleave(self.kept_rows.diff())
        return weight.index_put((rows, self.kept_columns.long()), self.kept_values, accumulate=True)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        x = read(x, self.inputs)
        ordered = x if self.order is None else x.index_select(-1, self.order)
        y = packed_linear(ordered, self.weight_on_device)
        if self.quantized.outliers is not None:
            y = add_sparse(y, x, self.kept_rows, self.kept_columns, self.kept_values)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, format={self.quantized.format}, packed"


def quantized_linear(
    weight: QuantizedWeight, linear: nn.Linear, *, execution: str, name: str, inputs: InputQuantizer | None = None
) -> nn.Module:
    """The quantized layer in the place of ``linear``, on its device; execution: ``fake`` or ``packed``.

    Packed execution multiplies codes where inputs are codes too and the device can (``w8a8``), otherwise decoded ones.

    Raises:
        QuantizationError: there is no packed execution of such a weight.
    """
    device = linear.weight.device
    if execution == "fake":
        return QuantLinear(weight.to(device), linear.bias, dtype=linear.weight.dtype, inputs=inputs)
    if inputs is not None and multiplies_in_8_bits(weight, inputs, device):
        return W8A8Linear(weight, linear.bias, inputs, device=device)
    try:
        return PackedLinear(weight, linear.bias, inputs=inputs, device=device)
    except ValueError as error:
        raise QuantizationError(f"{name}: {error}") from error


def check_packed_weights(model: nn.Module) -> None:
    """Compare what every packed layer multiplies with to what its codes mean: no speed counts for other weights.

    Raises:
        QuantizationError: a layer decodes to something else.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear | W8A8Linear):
            expected = layer.quantized.to(layer.scale.device).dequantize()
            # the sum of two parts of a kept weight may be off by the last bit of the larger
            slack = 0.0 if layer.quantized.outliers is None else _LAST_BIT * float(expected.abs().max())
            if bool(((layer.decoded() - expected).abs() > slack).any()):
                raise QuantizationError(f"{name}: its packed weights are not those that its codes stand for")


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they lie in memory; what is shared counts once."""
    tensors: Mapping[int, Tensor] = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
