"""What quantizing one linear, and nothing else, costs the model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantbench.models.branch import VariantResult
from quantbench.models.divergence import OneLinearDivergence
from quantbench.models.fisher import fisher_information
from quantbench.models.linear import linear_at
from quantbench.models.sensitivity import FisherError
from quantbench.models.solve import apply_result
from quantbench.models.structure import Block, Structure
from quantbench.progress import track


@dataclass(frozen=True)
class Cost:
    """kl: nats a token, full precision against the model with this linear quantized; fisher: sum F dW^2, twice the
    change of the loss that the diagonal F of the Fisher information predicts.
    """

    kl: float | None = None
    fisher: float | None = None


def costs(
    model: nn.Module, structure: Structure, result: VariantResult, ids: Tensor, *, device: torch.device
) -> dict[str, Cost]:
    """The cost of each linear whose weight or inputs are quantized, by its full name; nothing without tokens.

    ids: [samples, seqlen]. The model, on the host, computes in full precision and is left as it was.
    """
    names = [name for name in structure.linears if name in result.weights or name in result.inputs]
    if not len(ids) or not names:
        return {}
    rounded = list(result.weights)
    fisher = FisherError(fisher_information(model, rounded, ids, device=device) if rounded else {})
    found: dict[str, Cost] = {}
    try:
        divergence = OneLinearDivergence(model, structure, ids, device)
        for block, name in track(_in_order(structure), stage="KL", unit="linear", total=len(structure.linears)):
            if name in names:
                one = _only(result, name)
                change = None
                if name in result.weights:
                    full = linear_at(model, name).weight
                    change = fisher.change(name, result.weights[name].dequantize().to(full) - full)
                found[name] = Cost(_divergence(model, divergence, block, one), change)
            if name == f"{block.name}.{block.linears[-1]}":
                divergence.advance(block)
    finally:
        model.to("cpu")
    return found


def _only(result: VariantResult, name: str) -> VariantResult:
    """What was made of one linear."""
    return VariantResult(
        weights={name: result.weights[name]} if name in result.weights else {},
        inputs={name: result.inputs[name]} if name in result.inputs else {},
    )


def _divergence(model: nn.Module, divergence: OneLinearDivergence, block: Block, one: VariantResult) -> float:
    undo = apply_result(model, one)
    try:
        return divergence.of_change_in(block)
    finally:
        undo()


def _in_order(structure: Structure) -> Iterator[tuple[Block, str]]:
    for block in structure.blocks:
        for name in block.linears:
            yield block, f"{block.name}.{name}"
