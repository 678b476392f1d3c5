"""Function-preserving channel scaling: what divides a site's input by s when its weights are multiplied by s.

Which module can absorb 1/s is proposed from shapes and then put to the proof on the running block: with s made of
powers of two, dividing the producer's output and multiplying the consumers' inputs leaves every float of the block's
output unchanged, unless something else reads the tensor or something non-linear lies between. So activations (ReLU
passes, GELU does not), residual branches, routers and the layouts of fused projections are decided by what the block
computes, not by its name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantbench.models.experts import Experts
from quantbench.models.trace import Call, Trace, common_parent, first_tensor, key_of

if TYPE_CHECKING:
    from quantbench.models.structure import Site

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fold:
    """How a scale on a site's input channels is absorbed. All names are relative to the block.

    producer: the norm or linear whose output is divided. consumers: every module that reads the scaled tensor, routers
    included; the input columns of their weights are multiplied. sites: the names of all sites that share this fold;
    more than one (the experts behind one norm) means that one s serves them all: scale once, not once per site.
    norm_offset: for a norm, the constant c of its gain (c + weight): 1 for Gemma, 0 otherwise; None for a linear.
    rows [in]: for a linear, the output row of the producer that feeds each input channel of the site. Query heads that
    share a key-value head share rows, and s must be equal over them (``tied_mean``).
    """

    producer: str
    consumers: tuple[str, ...]
    sites: tuple[str, ...]
    norm_offset: float | None = None
    rows: Tensor | None = field(default=None, compare=False)


def tied_mean(x: Tensor, fold: Fold) -> Tensor:
    """Geometric mean of the positive ``x`` [in] over the channels that one producer row feeds; constant over them."""
    if fold.rows is None:
        return x
    _, group = fold.rows.to(x.device).unique(return_inverse=True)
    log = x.float().log()
    total = torch.zeros(int(group.max()) + 1, device=x.device).index_add_(0, group, log)
    return (total / torch.bincount(group))[group].exp().to(x.dtype)


@torch.no_grad()
def scale_site_(block: nn.Module, site: "Site", s: Tensor, shift: Tensor | None = None) -> None:
    """Multiply the columns of the site's weights by ``s`` [in] and divide their producer by it; same function after.

    In place, computed in fp32. Everything in ``site.fold.consumers`` is scaled: for experts behind one norm, one call
    scales all of them and the router. shift [in]: a constant to take from the inputs before (see ``takes_shift``).

    Raises:
        ValueError: the site cannot fold, or s has the wrong shape, is not finite and positive, or differs over tied
            channels.
    """
    fold = site.fold
    if fold is None:
        raise ValueError(f"site {site.name} has no fold: nothing can absorb a scale on its input")
    consumers = [_weight(block, name) for name in fold.consumers]
    s = s.to(consumers[0].device, torch.float32)
    if s.shape != consumers[0].shape[1:] or not bool((torch.isfinite(s) & (s > 0)).all()):
        raise ValueError(f"s for site {site.name} must be finite, positive, of shape {tuple(consumers[0].shape[1:])}")
    if not torch.allclose(s, tied_mean(s, fold), rtol=1e-5):
        raise ValueError(f"s for site {site.name} must be equal over tied channels: pass it through tied_mean")
    parameters = dict(block.named_parameters())
    for name, value in scaled(parameters, fold, s, shift).items():
        parameters[name].copy_(value)


def scaled(parameters: Mapping[str, Tensor], fold: Fold, s: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
    """The parameters that change, in fp32, when the inputs x of a site become (x - shift) / s; same function.

    s, shift [in], equal over tied channels; differentiable. A shift needs a bias at the producer and at every consumer
    (``takes_shift``), which the caller makes sure of.
    """
    changed: dict[str, Tensor] = {}
    for name in fold.consumers:
        weight = parameters[f"{name}.weight"].float()
        changed[f"{name}.weight"] = weight * s
        if shift is not None:
            changed[f"{name}.bias"] = parameters[f"{name}.bias"].float() + weight @ shift
    gain, bias = parameters[f"{fold.producer}.weight"].float(), parameters.get(f"{fold.producer}.bias")
    if fold.norm_offset is not None:
        divisor, taken = s, shift
        changed[f"{fold.producer}.weight"] = (gain + fold.norm_offset) / s - fold.norm_offset
    else:
        divisor = _by_row(fold, s, len(gain), 1.0)
        taken = None if shift is None else _by_row(fold, shift, len(gain), 0.0)
        changed[f"{fold.producer}.weight"] = gain / divisor[:, None]
    if bias is not None:
        changed[f"{fold.producer}.bias"] = (bias.float() if taken is None else bias.float() - taken) / divisor
    return changed


def _by_row(fold: Fold, values: Tensor, rows: int, elsewhere: float) -> Tensor:
    """Values [in] of a site's channels at the rows of the linear that feed them; one of those that share a row."""
    assert fold.rows is not None
    channel = torch.full((rows,), -1, device=values.device)
    channel[fold.rows.to(values.device)] = torch.arange(len(values), device=values.device)
    return torch.where(channel >= 0, values[channel], elsewhere)


def takes_shift(block: nn.Module, site: "Site") -> bool:
    """Whether a constant taken from the site's inputs can be put into biases.

    There must be a bias on both sides, and nothing between them that a constant does not pass: a norm's output goes
    straight to its readers, and the weights of an attention head sum to one; a gate or an activation is in the way
    elsewhere.
    """
    if site.fold is None or (site.fold.norm_offset is None and site.role != "attention_out"):
        return False
    names = set(dict(block.named_parameters()))
    return all(f"{name}.bias" in names for name in (site.fold.producer, *site.fold.consumers))


def find_folds(trace: Trace, groups: Iterable[list["Site"]], routers: Iterable[str], head_dim: int) -> dict[str, Fold]:
    """The fold of each site that has one, by site name.

    groups: sites of one attention, MLP or expert, in execution order. head_dim: width of an attention head.
    """
    groups = list(groups)
    folds = _norm_folds(trace, [site for group in groups for site in group], set(routers))
    for group in groups:
        for before, site in pairwise(group):
            fold = None if site.name in folds else _linear_fold(trace, before, site, head_dim)
            if fold is not None:
                folds[site.name] = fold
    return folds


def _norm_folds(trace: Trace, sites: list["Site"], routers: set[str]) -> dict[str, Fold]:
    folds: dict[str, Fold] = {}
    modules = trace.modules()
    for name, module in modules.items():
        output = trace.calls[name].output
        if not is_norm(module) or not isinstance(output, Tensor):
            continue
        readers = [n for n in modules if n and n != name and trace.calls[n].input_key == key_of(output)]
        consumers = tuple(c for reader in readers for c in _scaled_by(reader, modules[reader], routers))
        sharing = tuple(site.name for site in sites if set(site.linears) & set(consumers))
        offset = norm_offset(module, trace.calls[name])
        if not sharing or offset is None or not _preserves(trace, name, consumers, torch.arange(output.shape[-1])):
            continue
        folds |= dict.fromkeys(sharing, Fold(name, consumers, sharing, norm_offset=offset))
    return folds


def _linear_fold(trace: Trace, before: "Site", site: "Site", head_dim: int) -> Fold | None:
    """The value or up projection, if one feeds ``site`` channel by channel; the last linears are the likeliest."""
    columns = trace.block.get_submodule(site.linears[0]).in_features
    assert isinstance(columns, int)
    for producer in reversed(before.linears):
        out = trace.block.get_submodule(producer).out_features
        assert isinstance(out, int)
        for rows in _row_layouts(out, columns, head_dim):
            if _preserves(trace, producer, site.linears, rows):
                return Fold(producer, site.linears, (site.name,), rows=rows)
    return None


def _row_layouts(out: int, columns: int, head_dim: int) -> Iterator[Tensor]:
    """Ways in which ``out`` rows of a projection can feed ``columns`` channels: the row of each channel."""
    channel = torch.arange(columns)
    head, within = channel // head_dim, channel % head_dim
    if out == columns:
        yield channel
    if columns % head_dim == 0:
        key_value = out if out < columns else (out - columns) // 2
        if out != columns and key_value and columns % key_value == 0 and key_value % head_dim == 0:
            # Value heads shared by groups of query heads: alone, or the last rows of a fused [q; k; v].
            yield out - key_value + head // (columns // key_value) * head_dim + within
        if out == 3 * columns:
            # A fused [q; k; v] per head.
            yield 3 * head_dim * head + 2 * head_dim + within
    if out == 2 * columns:
        yield columns + channel
        yield channel


@torch.no_grad()
def _preserves(trace: Trace, producer: str, consumers: tuple[str, ...], rows: Tensor) -> bool:
    """Whether dividing output channel rows[c] of the producer by s[c] is undone by scaling the consumers' inputs."""
    scope = common_parent((producer, *consumers))
    while scope not in trace.calls:
        scope = scope.rpartition(".")[0]
    call, module = trace.calls[scope], trace.block.get_submodule(scope)
    output = first_tensor(trace.calls[producer].output)
    powers = 2.0 ** torch.randint(-4, 5, (output.shape[-1],), generator=torch.Generator().manual_seed(0))
    divisor = torch.ones_like(powers).index_copy(0, rows, powers[rows]).to(output)
    scale = divisor[rows.to(output.device)]
    handles = [trace.block.get_submodule(producer).register_forward_hook(lambda _, __, out: out / divisor)]
    for name in consumers:
        consumer = trace.block.get_submodule(name)
        handles.append(consumer.register_forward_pre_hook(lambda _, args: (args[0] * scale, *args[1:])))
    try:
        actual = first_tensor(module(*call.args, **call.kwargs))
    finally:
        for handle in handles:
            handle.remove()
    expected = first_tensor(call.output)
    return bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _scaled_by(name: str, module: nn.Module, routers: set[str]) -> list[str]:
    """The weights behind a reader of the norm's output: itself, or for routed experts their first linears."""
    if isinstance(module, nn.Linear) or name in routers:
        return [name]
    if isinstance(module, Experts):
        return [f"{name}.{index}.{linear}" for index in range(len(module)) for linear in ("gate_proj", "up_proj")]
    return []


def is_norm(module: nn.Module) -> bool:
    """Whether all that a module holds is one weight for each channel, and perhaps a bias."""
    parameters = dict(module.named_parameters())
    return bool(parameters) and set(parameters) <= {"weight", "bias"} and all(p.ndim == 1 for p in parameters.values())


def norm_offset(norm: nn.Module, call: Call) -> float | None:
    """c such that a gain of c + weight = 0 silences the norm: tells Gemma's (1 + weight) from the plain weight."""
    parameters = dict(norm.named_parameters())
    if "weight" not in parameters:
        return None
    for offset in (0.0, 1.0):
        silent: dict[str, Any] = {name: torch.zeros_like(p) for name, p in parameters.items()}
        silent["weight"] -= offset
        if not torch.func.functional_call(norm, silent, call.args, dict(call.kwargs)).any():
            return offset
    return None


def _weight(block: nn.Module, name: str) -> Tensor:
    weight = block.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight
