"""Learning rotations on the loss of a whole network that quantizes at run time (SpinQuant, arXiv 2405.16406).

Quantizing z = x R and multiplying with the rotated weight W R is multiplying Q(x R) R^T with W as it is. So the model
stays in the basis it is in, with every norm's gain in the weights behind it, and only what is quantized is turned, back
and forth: the loss and its gradients are those of the rotated network, and no weight is rotated at any step.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbench.errors import QuantizationError
from quantbench.methods.activation import InputQuantizer
from quantbench.methods.transform.rotation import ChannelRotation
from quantbench.methods.transform.spinquant import SpinQuant
from quantbench.methods.transform.stiefel import CayleySGD
from quantbench.methods.variant import Variant
from quantbench.models.attention import remove_caches_, set_caches_
from quantbench.models.basis import Basis, Turn, find_values, readers
from quantbench.models.folds import Fold
from quantbench.models.linear import read
from quantbench.models.online import Remembered
from quantbench.models.structure import Block, Site, Structure
from quantbench.progress import track


def learn_turn(
    model: nn.Module, rotation: SpinQuant, variant: Variant, ids: Tensor, structure: Structure, basis: Basis
) -> Turn:
    """Turn the basis of a model that is already rotated at random, from the identity on; the model is left as it is.

    basis: how it was rotated, with what shall run online later; variant: what it quantizes at run time; ids:
    calibration tokens [samples, seqlen]. Blocks are computed again in the backward pass, so that memory holds the
    activations of one.

    Raises:
        QuantizationError: the loss is not a finite number.
    """
    device = next(model.parameters()).device
    stream = torch.eye(basis.stream.size, device=device).requires_grad_()
    heads = [None if h is None else torch.eye(h.size, device=device).requires_grad_() for h in basis.heads]
    matrices = [stream, *(head for head in heads if head is not None)]
    optimizer, losses = CayleySGD(matrices, rotation.lr), list[float]()
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, rotation.steps))
    batches = _batches(ids, rotation.batch_size, rotation.seed)
    with torch.enable_grad(), _quantized_in(model, structure, basis, variant, stream, heads):
        for _ in track(range(rotation.steps), stage="learn rotation", unit="step"):
            optimizer.zero_grad()
            losses.append(_loss_(model, next(batches), device))
            optimizer.step()
            decay.step()
    return Turn(_host(stream), tuple(None if h is None else _host(h) for h in heads), (_note(losses),))


def _note(losses: list[float]) -> str:
    if not losses:
        return "rotation not turned: no steps"
    part = max(1, len(losses) // 10)
    first, last = (sum(few) / part for few in (losses[:part], losses[-part:]))
    few = f"{part} step{'s' if part > 1 else ''}"
    return f"rotation learned in {len(losses)} steps: loss {first:.4f} (first {few}) to {last:.4f} (last {few})"


def _host(matrix: Tensor) -> Tensor:
    return matrix.detach().double().cpu()


def _batches(ids: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    generator, size = torch.Generator().manual_seed(seed), min(size, len(ids))
    while True:
        order = torch.randperm(len(ids), generator=generator)
        yield from ids[order[: len(ids) // size * size]].split(size)


def _loss_(model: nn.Module, ids: Tensor, device: torch.device) -> float:
    """Mean next-token loss of a batch, a sample at a time; leaves its gradients with the matrices."""
    total = 0.0
    for sample in ids.to(device).split(1):
        logits = model(input_ids=sample, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[0, :-1].float(), sample[0, 1:]) / len(ids)
        loss.backward()
        total += float(loss.detach())
    if not total < float("inf"):
        raise QuantizationError("transform=spinquant: the loss of the quantized network is not a finite number")
    return total


@contextmanager
def _quantized_in(
    model: nn.Module,
    structure: Structure,
    basis: Basis,
    variant: Variant,
    stream: Tensor,
    heads: list[Tensor | None],
) -> Iterator[None]:
    """While open, the model quantizes what flows through it in the basis that the matrices turn it to."""
    with ExitStack() as stack:
        for block, head in zip(structure.blocks, heads, strict=True):
            values = find_values(block, structure.head_dim) if head is not None else None
            for hook in _hooks(block, basis, variant, stream, head, values):
                stack.callback(hook.remove)
            block.module.forward = partial(checkpoint, block.module.forward, use_reentrant=False)
            stack.callback(delattr, block.module, "forward")
        if variant.kv_cache.quantizes:
            stack.callback(remove_caches_, model)
            set_caches_(model, {f"{b.name}.{b.attention}": variant.kv_cache for b in structure.blocks})
        yield


def _hooks(
    block: Block, basis: Basis, variant: Variant, stream: Tensor, head: Tensor | None, values: Fold | None
) -> Iterator[Any]:
    online = {site.name: rotation.rotation for site, rotation in basis.inputs_of(block)}
    reading = {name for fold in readers(block, basis.stream.size) for name in fold.consumers}
    if head is not None and values is not None:
        assert values.rows is not None
        rows = values.rows.view(-1, len(head)).unique(dim=0).to(head.device)
        yield block.module.get_submodule(values.producer).register_forward_hook(partial(_turn_values, head, rows))
    for site in block.sites:
        turn = _Turned(
            stream if site.linears[0] in reading else None,
            head if site.role == "attention_out" else None,
            online.get(site.name),
            _quantizers(block, site, variant),
        )
        for name in site.linears:
            yield block.module.get_submodule(name).register_forward_pre_hook(partial(turn, name))


def _quantizers(block: Block, site: Site, variant: Variant) -> dict[str, InputQuantizer | None]:
    return {name: variant.activation.quantizer(f"{block.name}.{name}", site.role) for name in site.linears}


def _turn_values(head: Tensor, rows: Tensor, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The values of each head times ``head``; rows [heads, head_dim] of the projection's output."""
    turned = output[..., rows] @ head.to(output.dtype)
    return output.index_copy(-1, rows.flatten(), turned.flatten(-2))


@dataclass(frozen=True)
class _Turned:
    """What linears of a site read: quantized as x A H, for A ``stream`` and H ``online``, and turned back.

    head: what its channels are already multiplied with, in every head, and the linears' weights are not.
    """

    stream: Tensor | None
    head: Tensor | None
    online: ChannelRotation | None
    quantizers: dict[str, InputQuantizer | None]
    last: Remembered = field(default_factory=Remembered)

    def __call__(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        quantizer = self.quantizers[name]
        return self.last.of(args[0], partial(self._read, quantizer), key=quantizer), *args[1:]

    def _read(self, quantizer: InputQuantizer | None, x: Tensor) -> Tensor:
        if quantizer is not None:
            x = x if self.stream is None else x @ self.stream.to(x.dtype)
            x = x if self.online is None else self.online(x)
            x = read(x, quantizer)
            x = x if self.online is None else self.online(x, back=True)
            x = x if self.stream is None else x @ self.stream.to(x.dtype).T
        if self.head is not None:
            x = (x.unflatten(-1, (-1, len(self.head))) @ self.head.to(x.dtype).T).flatten(-2)
        return x
