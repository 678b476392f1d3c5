"""The loop that block-level tuners share: lower a block's output error over whatever parameters they bring."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantbench.errors import QuantizationError
from quantbench.methods.decay import decayed
from quantbench.methods.rounding.tuner import (
    BlockTuner,
    Schedule,
    Tunable,
    TunableScale,
    TunableTransform,
    TunableWeight,
)
from quantbench.models.capture import BlockInputs, to_device
from quantbench.models.folds import scale_site_, scaled
from quantbench.models.online import CHILD, OnlineAffine, attach_
from quantbench.models.structure import Block, Site
from quantbench.progress import track


@dataclass(frozen=True)
class TuningData:
    """What a block is tuned on, on the host: its inputs and what it should give for them.

    targets: one or more sets of outputs, batched like the inputs.
    """

    inputs: BlockInputs
    targets: Sequence[Sequence[Tensor]]

    def samples(self) -> list[tuple[Tensor, ...]]:
        """(input, target, ...) [seqlen, hidden] each, one tuple a sample; views, nothing is copied."""
        flat = ([sample for batch in batches for sample in batch] for batches in (self.inputs.hidden, *self.targets))
        return list(zip(*flat, strict=True))


@dataclass
class TunedBlock:
    """A block (``module``, a copy) as a function of tunables: of weights by their linear's name, of sites' scales."""

    block: Block
    module: nn.Module
    device: torch.device
    weights: Mapping[str, TunableWeight]
    scales: Sequence[tuple[Site, TunableScale]] = field(default_factory=list)
    transforms: Sequence[tuple[Site, TunableTransform]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module.requires_grad_(False)
        self._full = {name: self._parameter(name).detach().float() for name in self.weights}
        self._by_linear = {name: transform for site, transform in self.transforms for name in site.linears}
        for site, transform in self.transforms:
            online = OnlineAffine(transform.tensors())
            for name in site.linears:
                attach_(self.module.get_submodule(name), online)

    @property
    def tunables(self) -> list[Tunable]:
        """All of them."""
        return [*self.weights.values(), *(tunable for _, tunable in (*self.scales, *self.transforms))]

    def parameters(self) -> dict[str, Tensor]:
        """The block's tensors that tuning replaces, differentiable: folded transforms, then fake quantization."""
        known = dict(self.module.named_parameters()) | dict(self.module.named_buffers(remove_duplicate=False))
        replaced = dict[str, Tensor]()
        for site, scale in self.scales:
            assert site.fold is not None
            replaced |= scaled(known | replaced, site.fold, scale.scale(), scale.shift())
        for name, tunable in self.weights.items():
            full = self._changed(name, replaced.get(f"{name}.weight", self._full[name]))
            replaced[f"{name}.weight"] = tunable.fake_quantized(full)
        for site, transform in self.transforms:  # one module of all linears of the site
            replaced |= {f"{site.linears[0]}.{CHILD}.{key}": value for key, value in transform.tensors().items()}
        return {name: value.to(known[name].dtype) for name, value in replaced.items()}

    def _changed(self, name: str, weight: Tensor) -> Tensor:
        """The weight of a linear for its inputs in the basis that they have while the model runs."""
        transform = self._by_linear.get(name)
        return weight if transform is None else transform.folded(weight)

    def error(self, data: TuningData, samples: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Mean squared error of the block's output for a batch of samples, summed over the targets; differentiable."""
        hidden, *targets = (torch.stack(parts).to(self.device) for parts in zip(*samples, strict=True))
        args, kwargs = to_device(data.inputs.call(self.block.index, hidden), self.device)
        output = torch.func.functional_call(self.module, self.parameters(), (hidden, *args), kwargs)
        output = output[0] if isinstance(output, tuple) else output
        errors = [(output.float() - target.float()).square().mean() for target in targets]
        return torch.stack(errors).sum()

    @torch.no_grad()
    def fold_(self) -> None:
        """Put the scales into the module's full-precision parameters, and the transforms into what runs online."""
        for site, scale in self.scales:
            scale_site_(self.module, site, scale.scale(), scale.shift())
        self._full = {name: self._changed(name, self._parameter(name).detach().float()) for name in self.weights}
        for site, transform in self.transforms:
            online = self.module.get_submodule(f"{site.linears[0]}.{CHILD}")
            for key, value in transform.tensors().items():
                online.get_buffer(key).copy_(value)
        self.scales = []

    def full_precision(self, name: str) -> Tensor:
        """The weight of a linear that is to be quantized, fp32 [out, in]."""
        return self._full[name]

    def _parameter(self, name: str) -> nn.Parameter:
        return self.module.get_parameter(f"{name}.weight")


@torch.enable_grad()
def tune(tuned: TunedBlock, data: TuningData, tuner: BlockTuner, schedule: Schedule) -> None:
    """Adjust the tunables of a block, in place.

    Raises:
        QuantizationError: the error of the block is not a finite number, and no better parameters were kept.
    """
    samples = data.samples()
    groups = [group for tunable in tuned.tunables for group in tunable.groups()]
    if not schedule.steps or not groups:
        return
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = tuner.optimizer(groups)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: decayed(schedule.decay, step / schedule.steps, schedule.floor)
    )
    least, best = float("inf"), list[Tensor]()
    batches = _batches(len(samples), schedule)
    for _ in track(range(schedule.steps), stage=f"tune {tuned.block.name}", unit="step", leave=False):
        loss = tuned.error(data, [samples[index] for index in next(batches)])
        error = loss.item()
        if not math.isfinite(error):
            if best:
                break
            raise QuantizationError(f"{tuned.block.name}: the output error of the block is not a finite number")
        if schedule.keep_best and error < least:
            least, best = error, [parameter.detach().clone() for parameter in parameters]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)  # an expert may get no token
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        decay.step()
        for tunable in tuned.tunables:
            tunable.project_()
    if best:
        with torch.no_grad():
            for parameter, value in zip(parameters, best, strict=True):
                parameter.copy_(value)


def _batches(samples: int, schedule: Schedule) -> Iterator[list[int]]:
    """Indices of one batch after the other; what is left of the samples at the end of a pass is dropped."""
    generator = torch.Generator().manual_seed(schedule.seed)
    while True:
        order = torch.randperm(samples, generator=generator) if schedule.shuffled else torch.arange(samples)
        full = samples // schedule.batch_size * schedule.batch_size
        yield from order[:full].view(-1, schedule.batch_size).tolist()
