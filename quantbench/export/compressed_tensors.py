"""compressed-tensors (https://github.com/vllm-project/compressed-tensors), which transformers and vLLM load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantbench.export.layout import Layout, Packed
from quantbench.formats import FP8, MXFP4, NVFP4, Format, IntFormat, QuantizedWeight
from quantbench.formats.packing import pack_bits, pack_words

_INT_BITS = range(2, 9)
_ALLOWED = "format=int (2 to 8 bits), fp8 (e4m3), mxfp4, nvfp4"


@dataclass(frozen=True)
class _Scheme:
    """One entry of ``config_groups``: the compressor that reads it, and its arguments for the weights."""

    compressor: str
    num_bits: int
    type: str
    symmetric: bool
    strategy: str
    group_size: int | None

    @property
    def arguments(self) -> dict[str, Any]:
        """``weights`` of a config group."""
        kept = ("num_bits", "type", "symmetric", "strategy", "group_size")
        return {name: getattr(self, name) for name in kept} | {"dynamic": False}


class CompressedTensors(Layout):
    """Codes as ``weight_packed`` (int32 words, or two FP4 codes a byte) or, for FP8, as ``weight``; and their scales.

    Integers are signed there, so code and zero-point both lie 2^(bits-1) lower, which leaves the value what it is; the
    packed bits are those of the unsigned code again. Codes of 3, 5, 6 and 7 bits are packed without gaps, as versions
    from 0.18 on read them. A scale for the whole matrix is written as one a row. A model may mix formats.
    """

    name = "compressed_tensors"
    loads_with = "transformers with `pip install compressed-tensors`, or vLLM"

    def check_variant(self, formats: Sequence[Format], *, keeps_weights: bool, reorders_groups: bool) -> None:
        super().check_variant(formats, keeps_weights=keeps_weights, reorders_groups=reorders_groups)
        if reorders_groups:
            raise self._refuse(
                "groups in activation order",
                "rounding.static_groups=true, rounding.act_order=false, or save_layout=gptq",
            )
        if len({_scheme(format) for format in formats}) > 1 and any(format.stored_zero_point for format in formats):
            raise self._refuse(
                "zero-points in linears of different bits (transformers cannot load them)",
                "symmetric=true, or allocation=uniform",
            )

    def check_format(self, format: Format) -> None:
        if isinstance(format, IntFormat):
            self._check_integers(format, _INT_BITS)
        elif isinstance(format, FP8):
            if format.element != "e4m3":
                raise self._refuse(f"format.element={format.element}", _ALLOWED)
        elif not isinstance(format, MXFP4 | NVFP4):
            raise self._refuse(f"format={type(format).__name__}", _ALLOWED)

    def loading(self, folder: str, *, mixed: bool) -> str:
        """As in the base; a model of one format is best dequantized while it loads.

        Otherwise transformers (5.23 with compressed-tensors 0.20) expects zero-points unpacked and computes FP4 in
        bfloat16 alone. With several formats it would decode all of them as the first.
        """
        if mixed:
            return super().loading(folder, mixed=mixed)
        return f"""from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

dequantized = CompressedTensorsConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained("{folder}", quantization_config=dequantized)
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""

    def pack(self, weights: Mapping[str, QuantizedWeight], plain: Sequence[str], dtype: torch.dtype) -> Packed:
        tensors = {
            f"{name}.{part}": t for name, weight in weights.items() for part, t in _stored(weight, dtype).items()
        }
        schemes: dict[_Scheme, list[str]] = {}
        for name, weight in weights.items():
            schemes.setdefault(_scheme(weight.format), []).append(name)
        compressors = {scheme.compressor for scheme in schemes}
        groups = {
            f"group_{index}": {
                "targets": ["Linear"] if len(schemes) == 1 else names,
                "weights": scheme.arguments,
                "input_activations": None,
                "output_activations": None,
                "format": scheme.compressor,
            }
            for index, (scheme, names) in enumerate(schemes.items())
        }
        config = {
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": compressors.pop() if len(compressors) == 1 else "mixed-precision",
            "config_groups": groups,
            "ignore": list(plain),
            "kv_cache_scheme": None,
        }
        return Packed(tensors, config)


def _stored(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is stored in place of a linear's ``weight``, by the last part of its name."""
    format = weight.format
    if isinstance(format, IntFormat):
        return _integers(format, weight, dtype)
    if isinstance(format, FP8):
        return {"weight": weight.codes.view(torch.float8_e4m3fn), "weight_scale": _scale(format, weight, dtype)}
    packed = {"weight_packed": pack_bits(weight.codes, 4)}  # the even column in the low half of the byte
    if isinstance(format, NVFP4):
        assert weight.levels is not None
        # the library divides by the matrix's scale where we multiply
        inverse = weight.levels["tensor_scale"].float().reciprocal()
        return packed | {"weight_scale": weight.levels["scale"], "weight_global_scale": inverse}
    exponents = weight.scale.to(torch.float8_e8m0fnu).view(torch.uint8)
    return packed | {"weight_scale": exponents}


def _integers(format: IntFormat, weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    stored = {
        "weight_packed": pack_words(weight.codes, format.bits),
        "weight_scale": _scale(format, weight, dtype),
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if format.stored_zero_point:
        rows_along = pack_words(weight.zero_point.T.to(torch.uint8), format.bits)  # packed along the output channels
        stored["weight_zero_point"] = rows_along.T.contiguous()
    return stored


def _scale(format: Format, weight: QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """Scales [out, groups] in their own dtype; in float32 for a model in float32, since readers multiply in theirs."""
    return weight.scale.to(torch.float32 if dtype == torch.float32 else format.storage_dtype)


def _scheme(format: Format) -> _Scheme:
    size = format.group_size
    strategy = "channel" if size is None else "group"
    if isinstance(format, IntFormat):
        return _Scheme("pack-quantized", format.bits, "int", format.symmetric, strategy, size)
    if isinstance(format, FP8):
        return _Scheme("float-quantized", 8, "float", True, strategy, size)
    if isinstance(format, NVFP4):
        return _Scheme("nvfp4-pack-quantized", 4, "float", True, "tensor_group", size)
    return _Scheme("mxfp4-pack-quantized", 4, "float", True, "group", size)
