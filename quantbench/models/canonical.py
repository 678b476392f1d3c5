"""Rewrite a loaded model so that every weight worth quantizing is the weight of an nn.Linear."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from quantbench.errors import InputError
from quantbench.models.experts import Expert, Experts, linear_from

_FUSED = {"gate_up_proj", "down_proj"}


@torch.no_grad()
def canonicalise_(model: nn.Module) -> None:
    """Replace GPT-2's Conv1D and the fused 3-D experts of transformers 5 by nn.Linear modules, in place.

    The model computes the same function; a fused expert layer is run once beside its replacement to make sure.

    Raises:
        InputError: expert weights in a layout that is not understood.
    """
    from transformers.pytorch_utils import Conv1D

    checked: set[type[nn.Module]] = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            model.set_submodule(name, linear_from(module.weight.t(), module.bias))
        elif _is_fused(module):
            experts = _unfuse(module)
            if type(module) not in checked and not _same_function(module, experts):
                raise InputError(_unknown_layout(name, module))
            checked.add(type(module))
            model.set_submodule(name, experts)
        elif not isinstance(module, _ConvNd) and any(p.ndim == 3 for p in module.parameters(recurse=False)):
            raise InputError(_unknown_layout(name, module))


def _is_fused(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters(recurse=False))
    return (
        set(parameters) == _FUSED
        and all(p.ndim == 3 for p in parameters.values())
        and parameters["gate_up_proj"].shape[1] == 2 * parameters["down_proj"].shape[2]
        and callable(getattr(module, "act_fn", None))
    )


def _unfuse(fused: nn.Module) -> Experts:
    """gate_up_proj [experts, 2 intermediate, hidden] (gate first), down_proj [experts, hidden, intermediate]."""
    experts = Experts()
    parameters = dict(fused.named_parameters(recurse=False))
    for gate_up, down in zip(parameters["gate_up_proj"], parameters["down_proj"], strict=True):
        gate, up = gate_up.chunk(2)
        experts.append(Expert(gate, up, down, fused.act_fn))  # type: ignore[arg-type]
    return experts.train(fused.training)


def _same_function(fused: nn.Module, experts: Experts, tokens: int = 4) -> bool:
    weight = experts[0].get_parameter("gate_proj.weight")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, weight.shape[1], generator=generator).to(weight)
    slots = min(2, len(experts))
    index = (torch.arange(tokens)[:, None] + torch.arange(slots)).to(weight.device) % len(experts)
    share = torch.rand(tokens, slots, generator=generator).to(weight)
    expected, actual = fused(x, index, share).float(), experts(x, index, share).float()
    tolerance = 1e-4 if weight.dtype == torch.float32 else 3e-2
    return bool((expected - actual).abs().max() <= tolerance * expected.abs().max())


def _unknown_layout(name: str, module: nn.Module) -> str:
    shapes = {key: tuple(p.shape) for key, p in module.named_parameters(recurse=False)}
    return (
        f"{name} ({type(module).__name__}) holds fused weights in a layout that is not understood: {shapes}; "
        "understood: gate_up_proj [experts, 2 * intermediate, hidden], down_proj [experts, hidden, intermediate]"
    )
