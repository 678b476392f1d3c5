"""The parts of a causal language model that quantization works on, found from its modules and one traced block."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from quantbench.errors import InputError
from quantbench.models.attention import watching_attention
from quantbench.models.folds import Fold, find_folds
from quantbench.models.trace import Call, Trace, block_call, common_parent, in_float32, trace_block

Role = Literal["attention_in", "attention_out", "mlp_in", "mlp_out", "other"]


@dataclass(frozen=True)
class Site:
    """Linears of a block that read the very same tensor, so that they share calibration statistics.

    name: unique in the block. linears: names relative to the block, in execution order. parent: the smallest module
    whose output is the joint result of the site's linears (attention for q/k/v or fused qkv, the MLP or expert for
    gate/up; "" is the block); None where each linear's own output is what matters. fold: what can absorb a scale on
    the input, None if nothing can.
    """

    name: str
    linears: tuple[str, ...]
    role: Role
    parent: str | None
    fold: Fold | None


@dataclass(frozen=True)
class Block:
    """One decoder block: its place, its dotted name in the model, its module, its sites in execution order.

    attention: the module, relative to the block, that attends through transformers' interface; None if none does.
    """

    index: int
    name: str
    module: nn.Module
    sites: tuple[Site, ...]
    attention: str | None = None

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears to quantize, relative to the block; routers are not among them."""
        return tuple(name for site in self.sites for name in site.linears)


@dataclass(frozen=True)
class Structure:
    """blocks in order; head: the output embedding; body_prefix: dotted name of the module that holds the block list.

    head_dim: width of an attention head.
    """

    blocks: tuple[Block, ...]
    head: nn.Module
    body_prefix: str
    head_dim: int

    @property
    def linears(self) -> tuple[str, ...]:
        """Full names of all linears to quantize, in the order of the model."""
        return tuple(f"{block.name}.{name}" for block in self.blocks for name in block.linears)


def find_structure(model: nn.Module) -> Structure:
    """Describe a canonicalised causal language model (see ``canonicalise_``); its weights are read, never changed.

    The first block's inputs are taken from a forward pass of a few tokens that stops there; then one block of each kind
    (same modules and shapes) is run on them. So the cost is that of a few tokens through one block.

    Raises:
        InputError: no decoder blocks, no output embedding, or a linear that a forward pass does not reach.
    """
    list_name, modules = _find_blocks(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if head is None:
        raise InputError(f"no output embedding found in {type(model).__name__}: looked at get_output_embeddings()")
    call = block_call(model, modules[0])
    head_dim = _head_dim(model)
    kinds: dict[object, tuple[tuple[Site, ...], str | None]] = {}
    blocks = []
    for index, module in enumerate(modules):
        kind = _kind(module)
        if kind not in kinds:
            kinds[kind] = _find_sites(module, call, head_dim, f"{list_name}.{index}")
        blocks.append(Block(index, f"{list_name}.{index}", module, *kinds[kind]))
    return Structure(tuple(blocks), head, list_name.rpartition(".")[0], head_dim)


def _find_blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The ModuleList of modules of one class, each with linears, that holds most of the model's linear weights."""
    best, best_size = None, 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        sizes = [sum(m.weight.numel() for m in child.modules() if isinstance(m, nn.Linear)) for child in module]
        if all(sizes) and sum(sizes) > best_size:
            best, best_size = (name, list(module)), sum(sizes)
    if best is None:
        raise InputError(
            f"no decoder blocks found in {type(model).__name__}: looked for a ModuleList of modules of one class, "
            "each with linear layers"
        )
    return best


def _kind(module: nn.Module) -> object:
    return tuple(
        (name, type(child), tuple(tuple(p.shape) for p in child.parameters(recurse=False)))
        for name, child in module.named_modules()
    )


def _head_dim(model: nn.Module) -> int:
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _find_sites(block: nn.Module, call: Call, head_dim: int, block_name: str) -> tuple[tuple[Site, ...], str | None]:
    """The sites of a block, and the name of its attention module."""
    twin, call = in_float32(block, call)
    with watching_attention(twin) as attentions:
        trace = trace_block(twin, call)
    routers = _routers(trace)
    linears = [name for name, m in block.named_modules() if isinstance(m, nn.Linear) and name not in routers]
    missed = [name for name in linears if name not in trace.calls]
    if missed or not linears:
        raise InputError(f"{block_name}: a forward pass does not reach the linear layer {(missed or ['(none)'])[0]}")
    shared: dict[object, list[str]] = {}
    for name in trace.calls:
        if name in linears:
            shared.setdefault(trace.calls[name].input_key, []).append(name)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for names in shared.values():
        groups.setdefault(_scope(block, names[0]), []).append(tuple(names))
    grouped = [_describe(block, scope, group) for scope, group in groups.items()]
    folds = find_folds(trace, grouped, routers, head_dim)
    order = {names[0]: position for position, names in enumerate(shared.values())}
    sites = sorted((site for group in grouped for site in group), key=lambda site: order[site.linears[0]])
    attention = attentions[0] if len(attentions) == 1 else None
    return tuple(replace(site, fold=folds.get(site.name)) for site in sites), attention


def _routers(trace: Trace) -> set[str]:
    """Modules that choose experts: weighted modules with a list of experts as sibling, linear or not."""
    routers = set()
    for name, parent in trace.block.named_modules():
        children = dict(parent.named_children())
        if any(_are_experts(child) for child in children.values()):
            routers |= {
                f"{name}.{key}".lstrip(".")
                for key, child in children.items()
                if not list(child.children()) and getattr(child, "weight", None) is not None and child.weight.ndim == 2
            }
    return routers & set(trace.calls)


def _are_experts(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and all(
        sum(isinstance(m, nn.Linear) for m in member.modules()) > 1 for member in module
    )


def _scope(block: nn.Module, name: str) -> str:
    """The attention around a linear, otherwise the module that owns it. Every attention class says so in its name."""
    parts = name.split(".")[:-1]
    for depth in range(len(parts) + 1):
        class_name = type(block.get_submodule(".".join(parts[:depth]))).__name__.lower()
        if depth and ("attention" in class_name or "attn" in class_name):
            return ".".join(parts[:depth])
    return ".".join(parts)


def _describe(block: nn.Module, scope: str, group: list[tuple[str, ...]]) -> list[Site]:
    """Roles and parents of the sites of one attention, MLP or expert, in execution order; folds are added later."""
    class_name = type(block.get_submodule(scope)).__name__.lower()
    part = "attention" if scope and ("attention" in class_name or "attn" in class_name) else "mlp"
    sites = []
    for position, linears in enumerate(group):
        role: str = "other"
        if len(group) > 1 and position in (0, len(group) - 1):
            role = f"{part}_in" if position == 0 else f"{part}_out"
        parent = None
        if len(linears) > 1 or (role.endswith("_in") and _is_fused(block, linears[0], group[1][0])):
            parent = common_parent(linears)
        prefix = common_parent(linears)
        leaves = "+".join(name[len(prefix) :].lstrip(".") for name in linears)
        sites.append(Site(f"{prefix}.{leaves}".lstrip("."), linears, role, parent, None))  # type: ignore[arg-type]
    return sites


def _is_fused(block: nn.Module, linear: str, following: str) -> bool:
    """A lone linear whose rows outnumber what the next one reads: q, k and v, or gate and up, in one."""
    return bool(block.get_submodule(linear).out_features != block.get_submodule(following).in_features)
