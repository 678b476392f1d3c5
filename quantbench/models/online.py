"""Rotations that are computed while the model runs: of what a linear reads, undone in its weight.

The rotation is a child of the linear and a hook before it, so that the linear keeps its name and everything else (the
trace of a block, calibration, input quantizers) sees a linear whose inputs are rotated.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from quantbench.methods.rounding.affine import changed
from quantbench.methods.transform.block_hadamard import BlockHadamard
from quantbench.methods.transform.rotation import ChannelRotation
from quantbench.models.linear import linear_at
from quantbench.models.structure import Structure

CHILD = "rotation"
_TENSORS = ("dense", "signs", "core")


class Remembered:
    """The result for the last input, as long as that lives: readers of one tensor share what is made of it."""

    def __init__(self) -> None:
        self._input: ReferenceType[Tensor] | None = None
        self._output: Tensor | None = None
        self._key: object = None

    def of(self, x: Tensor, compute: Callable[[Tensor], Tensor], key: object = None) -> Tensor:
        """compute(x), or what it gave for this very tensor and key the last time."""
        output = self._output
        if output is None or self._input is None or self._input() is not x or self._key != key:
            output = compute(x)
            self._input, self._key = ref(x, self._forget), key  # first: to let go of the old output may end its input
            self._output = output
        return output

    def _forget(self, gone: "ReferenceType[Tensor]") -> None:
        if gone is self._input:
            self._input = self._output = None

    def __reduce__(self) -> tuple[type["Remembered"], tuple[()]]:
        return Remembered, ()  # a copy begins without


class OnlineAffine(nn.Module):
    """x -> x P for a learned P (see ``KroneckerAffine``), computed once for all linears that read one tensor."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())
        self._last = Remembered()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> [..., size]."""
        return self._last.of(x, lambda given: changed(given, dict(self.named_buffers())))


class OnlineRotation(nn.Module):
    """x -> x Q, computed once for all linears that read one tensor; they then share the result, too."""

    dense: Tensor | None
    signs: Tensor | None
    core: Tensor | None

    def __init__(self, rotation: ChannelRotation) -> None:
        super().__init__()
        self._rotation = replace(rotation, dense=None, signs=None, core=None)
        for name in _TENSORS:
            tensor = getattr(rotation, name)
            self.register_buffer(name, None if tensor is None else tensor.float())
        self._last = Remembered()

    @property
    def rotation(self) -> ChannelRotation:
        """Q, where the module is."""
        return replace(self._rotation, dense=self.dense, signs=self.signs, core=self.core)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> [..., size]."""
        return self._last.of(x, self.rotation)

    def extra_repr(self) -> str:
        return f"size={self._rotation.size}, block={self._rotation.block}"


@torch.no_grad()
def rotate_input_(linear: Any, rotation: OnlineRotation) -> None:
    """Make a linear read x Q; its weight undoes it: x W^T = (x Q) (W Q)^T."""
    linear.weight.copy_(rotation.rotation(linear.weight.double()))
    attach_(linear, rotation)


@torch.no_grad()
def rotate_inputs_(structure: Structure, transform: BlockHadamard) -> list[str]:
    """Rotate what every linear of the decoder blocks reads; returns what was done, in words.

    The linears of a site share one rotation, so that they are still found to read one tensor.
    """
    blocks = dict[int, int]()
    for block in structure.blocks:
        for site in block.sites:
            linears = [linear_at(block.module, name) for name in site.linears]
            rotation = OnlineRotation(transform.rotation(linears[0].in_features, linears[0].weight.device))
            blocks[linears[0].in_features] = rotation.rotation.block
            for linear in linears:
                rotate_input_(linear, rotation)
    sizes = ", ".join(f"{size} channels in blocks of {block}" for size, block in sorted(blocks.items()))
    return [f"{type(transform).__name__}: inputs of all linears rotated online, {sizes}"]


def carry_rotation_(old: nn.Module, new: nn.Module) -> None:
    """Give a module that takes the place of a linear the rotation of its inputs."""
    rotation = getattr(old, CHILD, None)
    if isinstance(rotation, OnlineRotation | OnlineAffine) and not hasattr(new, CHILD):
        attach_(new, rotation)


def attach_(linear: nn.Module, rotation: OnlineRotation | OnlineAffine) -> None:
    """Let a linear read what the module makes of its inputs; its weight is the caller's affair."""
    linear.add_module(CHILD, rotation)
    linear.register_forward_pre_hook(_rotated)


def _rotated(linear: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (linear.get_submodule(CHILD)(args[0]), *args[1:])
