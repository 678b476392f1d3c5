"""The folder around the weights: configuration, tokenizer, model card and record, complete or not there at all."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from quantbench.errors import InputError, QuantizationError
from quantbench.export.layout import Layout
from quantbench.formats import Format
from quantbench.models.linear import QuantLinear

RECORD = "quantbench.json"
"""The file that holds the run's record, and says that the folder is ours to overwrite."""


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that could not be written, or that must not be.

    Raises:
        InputError: no parent folder, something there that is not to be overwritten, or no permission.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"save={path}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise InputError(f"save={path}: no permission to write in {parent}")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / RECORD).is_file():
        raise InputError(f"save={path} is already there and no export of quantbench; give another name")
    if not overwrite:
        raise InputError(f"save={path} is already there; force=true overwrites it")


def check_model(
    model: nn.Module, layout: Layout, formats: dict[str, Format], *, replaces_norms: bool, path: Path
) -> None:
    """Refuse, before anything is computed, a model that its own class in transformers could not load again.

    formats: of every linear that will be quantized, by name; replaces_norms: LayerNorms will become RMSNorms.

    Raises:
        InputError: names the part and what is allowed, in one line.
    """
    config: Any = model.config
    kind = f"save={path}: {type(model).__name__}"
    if getattr(config, "auto_map", None):
        raise InputError(f"{kind} has its code in its own repository; allowed are architectures of transformers")
    original = _skeleton(model)
    if replaces_norms and any(isinstance(module, nn.LayerNorm) for module in original.modules()):
        raise InputError(f"{kind} cannot hold the RMSNorms that a rotation makes of its LayerNorms; use transform=none")
    for name, format in formats.items():
        if not isinstance(_submodule(original, name), nn.Linear):
            raise InputError(
                f"{kind} keeps the weights of {name} in a fused or transposed matrix; allowed are models whose every "
                "quantized matrix is an nn.Linear"
            )
        rows, columns = model.get_submodule(name).weight.shape  # type: ignore[misc]
        try:
            layout.check_shape(format, int(rows), int(columns))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error


def _skeleton(model: nn.Module) -> nn.Module:
    """The model as transformers builds it, without weights."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


def _submodule(root: nn.Module, name: str) -> nn.Module | None:
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None


@torch.no_grad()
def export_folder(
    model: nn.Module, tokenizer: Any, path: Path, layout: Layout, *, card: str, record: dict[str, Any]
) -> str:
    """Write ``model``, whose quantized linears are :class:`QuantLinear`, as a folder; returns what was written.

    What is not quantized keeps the model's dtype; tied matrices are written once. card: README.md; record:
    :data:`RECORD`. The folder appears under its name when it is complete, and replaces one of ours.
    """
    from huggingface_hub import save_torch_state_dict

    quantized = {name: m.quantized.to("cpu") for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    plain = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    tensors, config, files = _unquantized(model), _configuration(model), {RECORD: record}
    if quantized:
        packed = layout.pack(quantized, plain, config.dtype)
        tensors |= {name: _alone(tensor) for name, tensor in packed.tensors.items()}
        config.quantization_config = packed.config
        files |= packed.files
    with _replacing(path) as folder:
        save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
        config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        tokenizer.save_pretrained(folder)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in path.iterdir())
    return f"{path} ({size / 2**20:.1f} MiB): {len(quantized)} linears in the layout {layout.name}"


def _unquantized(model: nn.Module) -> dict[str, Tensor]:
    """Every stored tensor but the quantized weights; of tied ones the first, which the others are tied to again."""
    quantized = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in quantized and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: codes of linears that were solved as one are parts of one matrix."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _configuration(model: nn.Module) -> Any:
    config: Any = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = next(p.dtype for p in model.parameters())
    config.use_cache = True  # off while calibrating and scoring
    return config


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` when nothing went wrong and vanishes otherwise."""
    path = path.absolute()
    new, old = (path.with_name(f".{path.name}.{kind}{os.getpid()}") for kind in ("new", "old"))
    try:
        new.mkdir()
        yield new
        if path.exists():
            path.replace(old)
        new.replace(path)
    except (OSError, SafetensorError) as error:
        if old.exists():
            old.replace(path)
        raise QuantizationError(f"cannot write {path}: {' '.join(str(error).split())}") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
