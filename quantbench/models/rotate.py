"""Rotating the residual stream and the heads of a whole model, folded into its weights but for what runs online.

A norm without a gain commutes with a rotation: norm(h Q) = norm(h) Q for an orthogonal Q. So once the gains sit in the
linears behind the norms, whatever writes to the stream can write h Q and whatever reads it can undo Q (SliceGPT, arXiv
2401.15024, sec. 3; QuaRot, arXiv 2404.00456, sec. 4). LayerNorm is RMSNorm of a centred stream, so there the writers
are centred too, and the norm is replaced. Whether an architecture is of this kind is decided by what one block of each
kind computes after the rewrite, before the model is touched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quantbench.errors import InputError
from quantbench.methods.transform.rotation import ChannelRotation, Rotation
from quantbench.models.basis import Basis, Turn, draw_basis, find_values, readers
from quantbench.models.capture import split_hidden
from quantbench.models.folds import Fold, is_norm, norm_offset
from quantbench.models.online import rotate_input_
from quantbench.models.structure import Block, Structure, find_structure
from quantbench.models.trace import TOKENS, Call, block_call, first_tensor, in_float32

_BLOCK_TOLERANCE = 1e-4  # of the largest output of a block, in float32
# Of the spread of a token's logits. In 16 bits everything is rounded differently; a wrong rewrite gives about 1.
_LOGITS_TOLERANCE, _LOGITS_TOLERANCE_16 = 1e-3, 0.2


@dataclass(frozen=True)
class _Ends:
    """What surrounds the blocks: the tables whose rows enter the stream, and the norm and linear that leave it."""

    embeddings: list[nn.Embedding]
    final_norm: str
    head: nn.Linear


@torch.no_grad()
def check_rotation(model: nn.Module, structure: Structure, rotation: Rotation) -> None:
    """Refuse what ``rotate_`` would refuse before it changes the model.

    Raises:
        InputError: block_size does not fit, or the architecture cannot be rotated.
    """
    _prepare(model, structure, rotation)


@torch.no_grad()
def rotate_(
    model: nn.Module, structure: Structure, rotation: Rotation, learn: Callable[[Structure, Basis], Turn] | None = None
) -> list[str]:
    """Rewrite a canonical model in place, where it lies, so that it computes the same; returns what was done, in words.

    Every norm's gain becomes one and a tied output embedding a matrix of its own; the structure must be found again.
    Computed in float64 and rounded once to the dtype of each weight. learn: finds out, on the rotated model, how to
    turn its basis further before what runs online is put in.

    Raises:
        InputError: what ``check_rotation`` refuses, with the model unchanged; or the logits moved, and it is changed.
    """
    ends, basis = _prepare(model, structure, rotation)
    tied = ends.head.weight is ends.embeddings[0].weight
    if learn is None:
        _apply_(model, structure, ends, basis)
        return _notes(rotation, basis, structure, tied=tied)
    _apply_(model, structure, ends, replace(basis, online={}))
    structure = find_structure(model)
    turn = learn(structure, basis)
    _apply_(model, structure, ends, turn.basis(basis, device=ends.head.weight.device))
    return [*_notes(rotation, basis, structure, tied=tied), *turn.notes]


def _apply_(model: nn.Module, structure: Structure, ends: _Ends, basis: Basis) -> None:
    """Rewrite a model in a basis.

    Raises:
        InputError: its logits moved.
    """
    before = _logits(model)
    for block in structure.blocks:
        _rotate_block_(block.module, block, basis)
    _rotate_ends_(model, ends, basis)
    change = _typical_change(_logits(model), before)
    if not change <= (_LOGITS_TOLERANCE if before.dtype == torch.float32 else _LOGITS_TOLERANCE_16):
        raise _refusal(model, f"its logits change by {change:.1g} of their spread")


def _prepare(model: nn.Module, structure: Structure, rotation: Rotation) -> tuple[_Ends, Basis]:
    """What to rotate and with what, once a copy of one block of each kind has shown that it works."""
    width = model.config.get_text_config().hidden_size  # type: ignore[operator, union-attr]
    ends = _find_ends(model, structure, width)
    norms = [model.get_submodule(ends.final_norm)]
    norms += [b.module.get_submodule(fold.producer) for b in structure.blocks for fold in readers(b, width)]
    centre = any(isinstance(norm, nn.LayerNorm) for norm in norms)
    try:
        basis = draw_basis(rotation, structure, width, centred=centre, device=ends.head.weight.device)
    except ValueError as error:
        raise InputError(f"{type(model).__name__}: {error}") from error
    call = block_call(model, structure.blocks[0].module)
    for block in {id(block.sites): block for block in reversed(structure.blocks)}.values():
        _check_block(model, block, call, basis)
    return ends, basis


def _find_ends(model: nn.Module, structure: Structure, width: int) -> _Ends:
    inside = tuple(f"{block.name}." for block in structure.blocks)
    outside = {name: module for name, module in model.named_modules() if not name.startswith(inside)}
    tables = [m for m in outside.values() if isinstance(m, nn.Embedding)]
    tables.sort(key=lambda table: table is not model.get_input_embeddings())  # type: ignore[operator]
    head = structure.head
    if not isinstance(head, nn.Linear) or model.get_input_embeddings() not in tables:  # type: ignore[operator]
        raise _refusal(model, "its embeddings are no nn.Embedding and nn.Linear")
    for size in (*(table.embedding_dim for table in tables), head.in_features):
        if size != width:
            raise _refusal(model, f"an embedding has {size} channels and the residual stream {width}")
    norms = [name for name, module in outside.items() if is_norm(module)]
    if len(norms) != 1:
        raise _refusal(model, f"it has {len(norms)} norms outside its blocks ({', '.join(norms) or 'none'}), not one")
    return _Ends(tables, norms[0], head)


def _check_block(model: nn.Module, block: Block, call: Call, basis: Basis) -> None:
    """Rotate a float32 copy of the block and compare: f'(h Q) must be f(h) Q."""
    module, call = in_float32(block.module, call)
    hidden, (args, kwargs) = split_hidden(call.args, call.kwargs)
    expected = basis.written(first_tensor(module(hidden, *args, **kwargs)))
    _rotate_block_(module, block, basis)
    actual = first_tensor(module(basis.written(hidden), *args, **kwargs))
    error = float((actual - expected).abs().max() / expected.abs().max())
    if error <= _BLOCK_TOLERANCE:
        return
    width, known_norms = basis.stream.size, {fold.producer for fold in readers(block, basis.stream.size)}
    inner = tuple(f"{site.parent}." for site in block.sites if site.parent)
    for name, child in block.module.named_modules():
        known = name in known_norms or name.startswith(inner)
        if not known and is_norm(child) and next(child.parameters()).numel() == width:
            raise _refusal(model, f"{block.name}.{name} normalizes what is added to the residual stream")
    raise _refusal(model, f"{block.name} would compute something else ({error:.1g} of its largest output)")


def _refusal(model: nn.Module, reason: str) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be rotated: {reason}; allowed are models whose every block reads the residual "
        "stream through a norm and adds to it through linear layers, such as Llama, Mistral, Qwen, Phi-3, OPT, Pythia"
    )


def _rotate_block_(module: nn.Module, block: Block, basis: Basis) -> None:
    """Rotate ``module``, which is the block's or a copy of it."""
    with _in_float64(module):
        reading: set[str] = set()
        for fold in readers(block, basis.stream.size):
            gain, shift = _strip_norm_(module, fold.producer, fold.norm_offset or 0.0)
            for name in fold.consumers:
                _read_(module.get_submodule(name), gain, shift, basis.stream)
            reading |= set(fold.consumers)
        for name in block.linears:
            linear: Any = module.get_submodule(name)
            if name not in reading and linear.out_features == basis.stream.size:
                linear.weight.copy_(basis.written(linear.weight.T).T)
                if linear.bias is not None:
                    linear.bias.copy_(basis.written(linear.bias))
        head = basis.heads[block.index]
        if head is not None and (values := find_values(block, head.size)) is not None:
            _rotate_heads_(module, values, head)
        for site, rotation in basis.inputs_of(block):
            for name in site.linears:
                rotate_input_(module.get_submodule(name), rotation)


def _rotate_heads_(module: nn.Module, values: Fold, head: ChannelRotation) -> None:
    """v R for the values of each head; the columns of the output projection that read them undo it."""
    assert values.rows is not None
    producer: Any = module.get_submodule(values.producer)
    for rows in values.rows.view(-1, head.size).unique(dim=0).to(producer.weight.device):
        producer.weight[rows] = head(producer.weight[rows].T).T
        if producer.bias is not None:
            producer.bias[rows] = head(producer.bias[rows])
    for name in values.consumers:
        weight: Any = module.get_submodule(name).weight
        weight.copy_(head(weight.view(len(weight), -1, head.size)).view_as(weight))


def _rotate_ends_(model: nn.Module, ends: _Ends, basis: Basis) -> None:
    if ends.head.weight is ends.embeddings[0].weight:
        ends.head.weight = nn.Parameter(ends.head.weight.clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = False  # type: ignore[operator, union-attr]
    for table in ends.embeddings:
        with _in_float64(table):
            table.weight.copy_(basis.written(table.weight))
    offset = _offset(model, ends.final_norm, basis.stream.size)
    with _in_float64(ends.head):
        gain, shift = _strip_norm_(model, ends.final_norm, offset)
        _read_(ends.head, gain, shift, basis.stream)


def _offset(model: nn.Module, name: str, width: int) -> float:
    norm = model.get_submodule(name)
    x = torch.randn(1, 2, width, generator=torch.Generator().manual_seed(0)).to(next(norm.parameters()))
    offset = norm_offset(norm, Call((x,), {}))
    if offset is None:
        raise _refusal(model, f"the gain of {name} is neither its weight nor one plus its weight")
    return offset


def _strip_norm_(root: nn.Module, name: str, offset: float) -> tuple[Tensor, Tensor | None]:
    """Set a norm's gain to one and return what it was, with its bias; a LayerNorm becomes the RMSNorm it then is."""
    norm: Any = root.get_submodule(name)
    gain, shift = norm.weight.double() + offset, dict(norm.named_parameters()).get("bias")
    if isinstance(norm, nn.LayerNorm):
        bare = nn.RMSNorm(len(gain), eps=norm.eps, device=gain.device, dtype=norm.weight.dtype)
        root.set_submodule(name, bare.train(norm.training).requires_grad_(False))
    else:
        norm.weight.fill_(1 - offset)
    return gain, shift


def _read_(linear: Any, gain: Tensor, shift: Tensor | None, reader: ChannelRotation) -> None:
    """W (gain * norm(h) + shift) + b, as a function of norm(h) Q."""
    if shift is not None:
        bias = linear.weight @ shift.to(linear.weight)
        linear.bias = nn.Parameter(bias if linear.bias is None else linear.bias + bias, requires_grad=False)
    linear.weight.copy_(reader(linear.weight * gain))


@contextmanager
def _in_float64(module: nn.Module) -> Iterator[None]:
    """The module's parameters in float64, and back in their dtypes afterwards (new ones in that of the first)."""
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.data = parameter.data.double()
    try:
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = parameter.data.to(dtypes.get(name, next(iter(dtypes.values()))))


def _logits(model: nn.Module) -> Tensor:
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    ids = torch.randint(len(table), (1, 4 * TOKENS), generator=torch.Generator().manual_seed(0))
    logits: Tensor = model(input_ids=ids.to(table.device), use_cache=False).logits
    return logits


def _typical_change(logits: Tensor, before: Tensor) -> float:
    """Root mean squared change over the standard deviation, for the median token.

    Real models have tokens, rare ones above all, whose logits move as much in 16 bits without any rewrite.
    """
    change = (logits.float() - before.float()).square().mean(-1).sqrt() / before.float().std(-1)
    return float(change.median())


def _notes(rotation: Rotation, basis: Basis, structure: Structure, *, tied: bool) -> list[str]:
    name, width = type(rotation).__name__, basis.stream.size
    block_size = rotation.block(width)
    whole = "" if block_size == width else f" in blocks of {block_size}"
    notes = [f"{name} (seed {rotation.seed}): residual stream of {width} channels rotated{whole}, norms folded"]
    if basis.centred:
        notes.append("LayerNorms became RMSNorms of a centred residual stream")
    if rotation.heads:
        missing = sum(head is None for head in basis.heads)
        left = f", but for {missing} blocks, whose value projection was not found" if missing else ""
        notes.append(f"values rotated in heads of {structure.head_dim}{left}")
    notes += [f"online before {role}: {module.extra_repr()}" for (role, _), module in basis.online.items()]
    if tied:
        notes.append("the output embedding no longer shares the input embedding's matrix, and is counted")
    return notes
