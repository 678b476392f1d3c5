"""A model as a run quantizes it: every matrix before and after the transform, and what quantizing each linear costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from quantbench.formats import QuantizedWeight
from quantbench.inspection.codes import CodeCounter
from quantbench.inspection.distribution import Distribution
from quantbench.inspection.outputs import OutputErrors
from quantbench.inspection.sensitivity import Cost, costs
from quantbench.layers import place
from quantbench.methods.transform import ModelTransform, SpinQuant
from quantbench.methods.variant import Variant
from quantbench.models.branch import VariantResult
from quantbench.models.linear import linear_at
from quantbench.models.observe import observe
from quantbench.models.rewrite import rewrite_
from quantbench.models.solve import apply_result
from quantbench.models.spin import learn_turn
from quantbench.models.statistics_cache import StatisticsCache
from quantbench.models.structure import Block, Site, Structure, find_structure
from quantbench.models.walk import quantize_each
from quantbench.store.inspection import AFTER, BEFORE, INPUT, WEIGHT, CodeUse, Errors, InspectedRow, Shape


@dataclass(frozen=True)
class Findings:
    """What was found. transformed: whether any matrix changed before it was rounded; notes: in words."""

    rows: list[InspectedRow]
    transformed: bool
    notes: list[str]


def describe(
    model: nn.Module,
    structure: Structure,
    variant: Variant,
    ids: Tensor,
    *,
    samples: int,
    device: torch.device,
    cache: StatisticsCache | None = None,
) -> Findings:
    """Quantize a model as a run would, and describe every matrix of its blocks before and after.

    ids: calibration tokens [samples, seqlen]; samples: how many of them KL divergence and gradients are measured on, 0
    for neither. The model lies on the host; a transform of the whole model stays in it, everything else is undone.

    Raises:
        InputError: the model cannot be rotated.
        QuantizationError: the run could not go on.
    """
    look = partial(_look, ids=ids, group_size=variant.format.group_size, device=device)
    before, notes = look(model, structure, stage="before"), []
    rewrites = isinstance(variant.transform, ModelTransform)
    if isinstance(variant.transform, ModelTransform):
        notes = _rewritten(model, structure, variant, ids, device)
        structure = find_structure(model)
    result = _quantized(model, structure, variant, ids, device, cache)
    parameters = _transformed(model, result)
    undo = apply_result(model, VariantResult(parameters=parameters))
    try:
        acts = rewrites or bool(parameters) or variant.quantizes
        after = look(model, structure, stage="after", result=result) if acts else before
        measured = costs(model, structure, result, ids[:samples], device=device)
    finally:
        undo()
    after = _with_costs(after, measured)
    rows = [*_rows(structure, before, BEFORE), *_rows(structure, after, AFTER)]
    return Findings(rows, rewrites or bool(parameters), notes + result.notes)


def _rewritten(
    model: nn.Module, structure: Structure, variant: Variant, ids: Tensor, device: torch.device
) -> list[str]:
    """Transform the whole model in place; what was done, in words."""
    transform, learn = variant.transform, None
    assert isinstance(transform, ModelTransform)
    if isinstance(transform, SpinQuant):
        learn = partial(learn_turn, model, transform, variant, ids)
    try:
        return rewrite_(model.to(device), structure, transform, learn)
    finally:
        model.to("cpu")


def _quantized(
    model: nn.Module,
    structure: Structure,
    variant: Variant,
    ids: Tensor,
    device: torch.device,
    cache: StatisticsCache | None,
) -> VariantResult:
    """What the run's walk gives, with the weights that were rounded; nothing for full precision."""
    if not variant.quantizes:
        return VariantResult()
    (outcome,) = quantize_each(model, structure, [variant], ids, device=device, cache=cache, keep_latent=True)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _transformed(model: nn.Module, result: VariantResult) -> dict[str, Tensor]:
    """Every parameter that the transform changed, as it was before anything was rounded."""
    known, found = dict(model.named_parameters()), dict(result.parameters)  # biases may be new
    for name, weight in result.latent.items():
        found[f"{name}.weight"] = weight.to(known[f"{name}.weight"].dtype)
    return {name: value for name, value in found.items() if name not in known or not torch.equal(value, known[name])}


Key = tuple[str, str]  # the name of a linear, and WEIGHT or INPUT


@dataclass(frozen=True)
class _Seen:
    """What is known of the matrices of a model: distributions, codes, errors."""

    shapes: Mapping[Key, Shape]
    codes: Mapping[Key, CodeUse] = field(default_factory=dict)
    errors: Mapping[Key, Errors] = field(default_factory=dict)


def _look(
    model: nn.Module,
    structure: Structure,
    *,
    ids: Tensor,
    group_size: int | None,
    device: torch.device,
    stage: str,
    result: VariantResult | None = None,
) -> _Seen:
    """All weights and what flows into them, in full precision; what ``result`` makes of both, if it is given."""
    result = result or VariantResult()
    inputs: dict[str, Distribution] = {}
    counters: dict[str, CodeCounter] = {}
    outputs = OutputErrors(model, result, device)

    def see(block: Block, site: Site, values: Tensor) -> None:
        name = _input_name(block, site)
        if not values.numel():  # no token of the batch reached an expert
            return
        inputs.setdefault(name, Distribution(values.shape[-1])).add(values)
        quantized = result.inputs[name].quantized(values) if name in result.inputs else None
        if quantized is not None:
            counters.setdefault(name, CodeCounter(quantized.format)).add(values.reshape(quantized.shape), quantized)
        outputs.add(block, site, values)

    observe(model, structure, ids, see, device=device, stage=f"inputs {stage}")
    shapes = {(name, INPUT): distribution.shape() for name, distribution in inputs.items()}
    codes = {(name, INPUT): counter.use() for name, counter in counters.items()}
    errors = {}
    for name in structure.linears:
        weight, rounded = linear_at(model, name).weight.to(device), result.weights.get(name)
        shapes[name, WEIGHT] = Distribution.of(weight, group_size).shape()
        if rounded is not None:
            codes[name, WEIGHT] = _code_use(weight, rounded.to(device))
        rounding = result.layers[name].weight if name in result.layers else None
        errors[name, WEIGHT] = Errors(weight_error=rounding, output_error=outputs.of(name))
    return _Seen(shapes, codes, errors)


def _code_use(weight: Tensor, rounded: QuantizedWeight) -> CodeUse:
    counter = CodeCounter(rounded.format)
    counter.add(weight, rounded)
    return counter.use()


def _with_costs(seen: _Seen, measured: Mapping[str, Cost]) -> _Seen:
    errors = dict(seen.errors)
    for name, cost in measured.items():
        errors[name, WEIGHT] = replace(errors[name, WEIGHT], kl=cost.kl, fisher=cost.fisher)
    return replace(seen, errors=errors)


def _input_name(block: Block, site: Site) -> str:
    return f"{block.name}.{site.linears[0]}"


def _rows(structure: Structure, seen: _Seen, stage: str) -> list[InspectedRow]:
    rows = []
    for block in structure.blocks:
        for site in block.sites:
            read = _input_name(block, site)
            for key in ((read, INPUT), *((f"{block.name}.{linear}", WEIGHT) for linear in site.linears)):
                name, what = key
                if key in seen.shapes:  # no token may have reached an expert
                    values = asdict(seen.shapes[key])
                    values |= asdict(seen.codes.get(key, CodeUse())) | asdict(seen.errors.get(key, Errors()))
                    values |= {"block": block.index, "name": name, "kind": place(name)[1], "site": read}
                    rows.append(InspectedRow(what=what, stage=stage, **values))
    return rows
