"""The GEMM layout of AutoAWQ, which transformers, vLLM, SGLang and others load."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantbench.export.layout import Layout, Packed
from quantbench.formats import Format, QuantizedWeight
from quantbench.formats.packing import pack_words

_BITS = (4,)
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring output channels each four bits of a word hold, lowest first."""


class AutoAWQ(Layout):
    """``qweight`` int32 [in, out / 8] and ``qzeros`` int32 [groups, out / 8], packed along the output channels in
    ``_ORDER``; ``scales`` float16 [groups, out]. Symmetric models store their constant zero-point.
    """

    name = "awq"
    loads_with = "transformers with `pip install gptqmodel` (or autoawq), or vLLM"
    row_multiple = 8

    def check_variant(self, formats: Sequence[Format], *, keeps_weights: bool, reorders_groups: bool) -> None:
        super().check_variant(formats, keeps_weights=keeps_weights, reorders_groups=reorders_groups)
        self._check_half(self._check_integers(formats[0], _BITS), formats)
        if reorders_groups:
            raise self._refuse(
                "groups in activation order",
                "rounding.static_groups=true, rounding.act_order=false, or save_layout=gptq",
            )

    def check_format(self, format: Format) -> None:
        self._check_integers(format, _BITS)

    def pack(self, weights: Mapping[str, QuantizedWeight], plain: Sequence[str], dtype: torch.dtype) -> Packed:
        tensors: dict[str, Tensor] = {}
        for name, weight in weights.items():
            tensors[f"{name}.qweight"] = _interleaved(weight.codes.T)
            tensors[f"{name}.qzeros"] = _interleaved(weight.zero_point.T.to(torch.uint8))
            tensors[f"{name}.scales"] = weight.scale.T.half().contiguous()
        config = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": next(iter(weights.values())).format.group_size or -1,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(plain) or None,
        }
        return Packed(tensors, config)


def _interleaved(codes: Tensor) -> Tensor:
    """Codes [rows, out] as int32 words [rows, out / 8]."""
    words = codes.reshape(len(codes), -1, len(_ORDER))[..., list(_ORDER)]
    return pack_words(words.flatten(1), 4)
