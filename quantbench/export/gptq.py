"""The GPTQ layout of AutoGPTQ and GPTQModel, which transformers (with gptqmodel), vLLM, SGLang and others load."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantbench import __version__
from quantbench.export.layout import Layout, Packed
from quantbench.formats import Format, IntFormat, QuantizedWeight
from quantbench.formats.packing import pack_words

_BITS = (2, 3, 4, 8)


class GPTQLayout(Layout):
    """``qweight`` int32 [in * bits / 32, out], packed along the input channels; ``scales`` float16 [groups, out];
    ``qzeros`` int32 [groups, out * bits / 32]; ``g_idx`` int32 [in].

    The first version (``checkpoint_format: gptq``) stores zero-points minus one, so that a zero-point of 0 has no
    code: adding one to the word would carry into its neighbour. A model that has any is written in the second version
    (``gptq_v2``), which stores them as they are.
    """

    name = "gptq"
    loads_with = "transformers with `pip install gptqmodel`, or vLLM"
    column_multiple = row_multiple = 32

    def check_variant(self, formats: Sequence[Format], *, keeps_weights: bool, reorders_groups: bool) -> None:
        super().check_variant(formats, keeps_weights=keeps_weights, reorders_groups=reorders_groups)
        self._check_half(self._check_integers(formats[0], _BITS), formats)

    def check_format(self, format: Format) -> None:
        self._check_integers(format, _BITS)

    def pack(self, weights: Mapping[str, QuantizedWeight], plain: Sequence[str], dtype: torch.dtype) -> Packed:
        second = any(int(weight.zero_point.min()) == 0 for weight in weights.values())
        tensors = {
            f"{name}.{part}": tensor
            for name, weight in weights.items()
            for part, tensor in _stored(weight, offset=0 if second else 1).items()
        }
        format = next(iter(weights.values())).format
        assert isinstance(format, IntFormat)
        config = {
            "quant_method": "gptq",
            "bits": format.bits,
            "group_size": format.group_size or -1,
            "desc_act": any(weight.group_index is not None for weight in weights.values()),
            "sym": format.symmetric,
            "lm_head": False,
            "checkpoint_format": "gptq_v2" if second else "gptq",
            "pack_dtype": "int32",
        }
        if second:  # readers that know the first version alone refuse a configuration with this key
            config["meta"] = {"quantizer": [f"quantbench:{__version__}"]}
        if plain:
            config["dynamic"] = {f"-:^{re.escape(name)}$": {} for name in plain}
        return Packed(tensors, config, {"quantize_config.json": config})  # AutoGPTQ looks there


def _stored(weight: QuantizedWeight, *, offset: int) -> dict[str, Tensor]:
    """What is stored in place of a linear's ``weight``; offset: how much lower zero-points are stored."""
    bits = weight.format.bits
    return {
        "qweight": pack_words(weight.codes, bits).T.contiguous(),
        "scales": weight.scale.T.half().contiguous(),
        "qzeros": pack_words((weight.zero_point - offset).T.to(torch.uint8), bits),
        "g_idx": weight.column_groups().to(torch.int32),
    }
