"""Transforms of a whole model, done before its blocks are quantized and common to all runs that have them."""

from collections.abc import Callable

from torch import nn

from quantbench.methods.transform.base import ModelTransform
from quantbench.methods.transform.block_hadamard import BlockHadamard
from quantbench.methods.transform.rotation import Rotation
from quantbench.models.basis import Basis, Turn
from quantbench.models.online import rotate_inputs_
from quantbench.models.rotate import check_rotation, rotate_
from quantbench.models.structure import Structure


def check_rewrite(model: nn.Module, structure: Structure, transform: ModelTransform) -> None:
    """Refuse what ``rewrite_`` would refuse before it changes the model.

    Raises:
        InputError: the architecture cannot be rewritten so, or a size does not fit.
    """
    if isinstance(transform, Rotation):
        check_rotation(model, structure, transform)


def rewrite_(
    model: nn.Module,
    structure: Structure,
    transform: ModelTransform,
    learn: Callable[[Structure, Basis], Turn] | None = None,
) -> list[str]:
    """Rewrite a canonical model in place so that it computes the same; returns what was done, in words.

    The structure must be found again. learn: fits a transform that ``learns``; see ``rotate_``.

    Raises:
        InputError: what ``check_rewrite`` refuses, with the model unchanged; or the logits moved, and it is changed.
    """
    if isinstance(transform, BlockHadamard):
        return rotate_inputs_(structure, transform)
    assert isinstance(transform, Rotation)
    return rotate_(model, structure, transform, learn if transform.learns else None)
