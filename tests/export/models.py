"""Small quantized models, as a run leaves them, and folders written from them."""

from pathlib import Path
from typing import Any

import torch

from quantbench.export import LAYOUTS, export_folder
from quantbench.formats import Format
from quantbench.methods.allocation import Allocation, Uniform
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import RTN, Rounding
from quantbench.methods.transform import NoTransform
from quantbench.methods.variant import Variant
from quantbench.models.canonical import canonicalise_
from quantbench.models.solve import apply_result
from quantbench.models.structure import find_structure
from quantbench.models.walk import quantize
from tests.models import tiny

WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
SIZES = {"opt": {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 96}, "gpt2": {"n_embd": 64}}


def quantized(
    name: str,
    format: Format,
    *,
    rounding: Rounding | None = None,
    allocation: Allocation | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Any:
    """A tiny model whose widths fill groups of 32 and words, with its linears quantized in place."""
    model = tiny.build(name, **SIZES.get(name, WIDE) | changes).to(dtype)
    canonicalise_(model)
    variant = Variant(format, MinMax(), NoTransform(), rounding or RTN(), allocation or Uniform(), "fp")
    ids = tiny.token_ids(4, 32) if variant.needs_calibration else None
    result = quantize(model, find_structure(model), [variant], ids, device=torch.device("cpu"))[0]
    apply_result(model, result)
    return model


def exported(model: Any, folder: Path, layout: str) -> Path:
    """``folder``, written from ``model``."""
    export_folder(model, tiny.tokenizer(), folder, LAYOUTS[layout], card="# card", record={"run_id": "a1"})
    return folder


def logits(model: Any) -> torch.Tensor:
    """[2, 16, vocabulary]."""
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=tiny.token_ids()).logits
    return result
