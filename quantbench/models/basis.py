"""The basis that a model is rewritten in: which channels are multiplied with what, drawn for one model."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantbench.methods.transform.rotation import ChannelRotation, Rotation
from quantbench.models.folds import Fold
from quantbench.models.linear import linear_at
from quantbench.models.online import OnlineRotation
from quantbench.models.structure import Block, Site, Structure


@dataclass(frozen=True)
class Basis:
    """What channels are multiplied with.

    stream: Q, for what reads the residual stream; centred: whether the norms take the mean out, which what writes to
    it then does before; heads: of the values of every head, one for each block, None where they stay; online: what is
    rotated while the model runs, by role of the site and width of its inputs.
    """

    stream: ChannelRotation
    heads: tuple[ChannelRotation | None, ...]
    centred: bool
    online: dict[tuple[str, int], OnlineRotation] = field(default_factory=dict)

    def written(self, x: Tensor) -> Tensor:
        """What is added to the stream [..., width], in the new basis."""
        return self.stream(x - x.mean(-1, keepdim=True) if self.centred else x)

    def inputs_of(self, block: Block) -> Iterator[tuple[Site, OnlineRotation]]:
        """The sites of a block whose inputs are rotated while the model runs."""
        for site in block.sites:
            rotation = self.online.get((site.role, columns(block, site)))
            if rotation is not None:
                yield site, rotation


@dataclass(frozen=True)
class Turn:
    """Orthogonal matrices that a rotated model's basis is multiplied with, on the host in fp64, and notes on them.

    stream [width, width]; heads [head_dim, head_dim], one for each block, None where its values stay.
    """

    stream: Tensor
    heads: tuple[Tensor | None, ...]
    notes: tuple[str, ...] = ()

    def basis(self, start: Basis, *, device: torch.device) -> Basis:
        """What a model that is in the basis ``start``, but for what runs online, is to be rewritten in."""
        heads = tuple(None if h is None else ChannelRotation(len(h), dense=h.to(device)) for h in self.heads)
        stream = ChannelRotation(len(self.stream), dense=self.stream.to(device))
        return Basis(stream, heads, centred=False, online=start.online)


def draw_basis(rotation: Rotation, structure: Structure, width: int, *, centred: bool, device: torch.device) -> Basis:
    """The basis for residual streams of ``width`` channels.

    Raises:
        ValueError: block_size does not fit.
    """
    generator = torch.Generator().manual_seed(rotation.seed)
    stream = rotation.rotation(width, rotation.block(width), generator, device)
    head_dim, head = structure.head_dim, None
    if rotation.heads:
        head = rotation.rotation(head_dim, rotation.largest_block(head_dim), generator, device)
    heads = tuple(head if find_values(block, head_dim) else None for block in structure.blocks)
    online: dict[tuple[str, int], OnlineRotation] = {}
    for block, values in zip(structure.blocks, heads, strict=True) if rotation.online else ():
        for site in block.sites:
            key = site.role, columns(block, site)
            if site.role in ("attention_out", "mlp_out") and key not in online:
                within = head_dim if site.role == "attention_out" and values is not None else None
                online[key] = OnlineRotation(_online(rotation, key[1], within, generator, device))
    return Basis(stream, heads, centred, online)


def _online(
    rotation: Rotation, size: int, within: int | None, generator: torch.Generator, device: torch.device
) -> ChannelRotation:
    """Of ``size`` channels that are already rotated ``within`` heads: across these, where all of them can be mixed."""
    if within is not None and rotation.block_size is None:
        heads = size // within
        if rotation.largest_block(heads) == heads > 1:
            across = rotation.online_rotation(heads, generator, device)
            return ChannelRotation(size, across.dense, across.signs, across.core, across.block, stride=within)
    return rotation.online_rotation(size, generator, device)


def readers(block: Block, width: int) -> list[Fold]:
    """One fold for each norm that reads the stream; the norm of what an attention or MLP is about to write does not."""
    found: dict[str, Fold] = {}
    for site in block.sites:
        norm_fed = site.fold is not None and site.fold.norm_offset is not None
        if site.fold is not None and norm_fed and columns(block, site) == width and not site.role.endswith("_out"):
            found[site.fold.producer] = site.fold
    return list(found.values())


def find_values(block: Block, head_dim: int) -> Fold | None:
    """How the value projection feeds the output projection, head by head."""
    for site in block.sites:
        if site.role == "attention_out" and site.fold is not None and site.fold.rows is not None:
            rows = site.fold.rows
            if len(rows) % head_dim == 0 and rows.view(-1, head_dim).unique(dim=0).numel() == rows.unique().numel():
                return site.fold
    return None


def columns(block: Block, site: Site) -> int:
    """Input channels of a site."""
    return linear_at(block.module, site.linears[0]).in_features
