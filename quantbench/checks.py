"""What can be found out before anything is computed: devices, texts, and what a model's layers can take."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from quantbench.config.schema import RunConfig
from quantbench.data.corpora import load_documents
from quantbench.errors import InputError
from quantbench.formats import Format
from quantbench.methods.activation import QuantizedInputs
from quantbench.methods.kv_cache import QuantizedKVCache
from quantbench.methods.patterns import matches
from quantbench.methods.training import Scratch
from quantbench.models.load import WorldModel
from quantbench.models.packed import check_packable
from quantbench.models.structure import Structure
from quantbench.saving import check_saved_model


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is one, otherwise the CPU.

    Raises:
        InputError: a device that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("no accelerator of this kind is supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used here; allowed are auto, cpu, cuda, cuda:N") from error
    return device


def context_length(model: nn.Module) -> int:
    """The longest sequence that the model takes."""
    settings: Any = model.config
    return int(getattr(settings.get_text_config(), "max_position_embeddings", None) or 2**31)


def check_training(config: RunConfig) -> None:
    """Refuse a training from scratch of a model whose training is not known.

    Raises:
        InputError: names the setting and what is allowed.
    """
    if isinstance(config.training, Scratch) and not isinstance(config.model, WorldModel):
        raise InputError(
            "training=scratch repeats the training of the model: allowed with model=world_s, world_m, world_l"
        )


def check_texts(config: RunConfig) -> None:
    """Find out about an unreadable or empty text before the model is loaded; the embedded world cannot fail."""
    texts = [(config.evaluation.corpus, config.evaluation.split)]
    if config.variant().needs_calibration:
        texts.append((config.calibration.corpus, config.calibration.split))
    for corpus, split in texts:
        if corpus != "world":
            load_documents(corpus, split)


def check_model(config: RunConfig, model: nn.Module, structure: Structure) -> None:
    """Find out, before anything is computed, what the run would stumble over later."""
    check_saved_model(config, model, structure)
    if config.rounding.quantizes:
        _check_allocation(config, structure)
    if isinstance(config.activation, QuantizedInputs):
        sites = [(block.name, site) for block in structure.blocks for site in block.sites]
        called = [(f"{block}.{linear}", str(site.role)) for block, site in sites for linear in site.linears]
        _check_skipped("activation.skip", config.activation.skip, called)
    if isinstance(config.kv_cache, QuantizedKVCache):
        _check_kv_cache(config.kv_cache, structure)


def _check_kv_cache(cache: QuantizedKVCache, structure: Structure) -> None:
    """Refuse attention whose keys and values are out of reach, and heads that no Hadamard matrix fits."""
    for block in structure.blocks:
        if block.attention is None:
            raise InputError(
                f"{block.name}: its attention does not go through transformers' attention interface, where keys and "
                "values are quantized; allowed here is kv_cache=none"
            )
    try:
        cache.check_width(structure.head_dim)
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_skipped(key: str, patterns: Sequence[str], called: Sequence[tuple[str, ...]]) -> None:
    """Refuse a pattern that names no linear (a typo would quantize it silently), or patterns that leave none.

    called: what each linear can be called: its name, and perhaps the role of its site.
    """
    for pattern in patterns:
        if not any(matches([pattern], *names) for names in called):
            kinds = sorted({name.rsplit(".", 1)[-1] for names in called for name in names})
            raise InputError(f"{key}={pattern}: matches no linear; their names end in {', '.join(kinds)}")
    if all(matches(patterns, *names) for names in called):
        raise InputError(f"{key} matches every linear of the decoder blocks: nothing is left to quantize")


def _check_allocation(config: RunConfig, structure: Structure) -> None:
    """Refuse skip patterns that mean nothing, and matrices that the format has no layout for."""
    _check_skipped("allocation.skip", config.allocation.skip, [(name,) for name in structure.linears])
    for block in structure.blocks:
        for linear in block.linears:
            name = f"{block.name}.{linear}"
            if config.allocation.quantizes(name):
                format = config.allocation.format_of(name, config.format)
                _check_shape(name, format, block.module.get_submodule(linear), config.evaluation.execution)


def _check_shape(name: str, format: Format, linear: Any, execution: str) -> None:
    """Refuse a matrix that the format has no layout for."""
    try:
        format = format.for_shape(*linear.weight.shape)
        if execution == "packed":
            check_packable(format, linear.in_features)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
