"""Training on the embedded world from the first weights on: full-precision models, and their quantized twins."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantbench.data.world.batches import windows
from quantbench.data.world.generator import default_world
from quantbench.data.world.tokenizer import vocabulary
from quantbench.methods.grid import Grid
from quantbench.methods.rounding.tuner import ParameterGroup
from quantbench.methods.training import Scratch
from quantbench.methods.training.schedule import Schedule
from quantbench.methods.variant import Variant
from quantbench.models.branch import VariantResult
from quantbench.models.load import WorldModel
from quantbench.paths import cache_dir
from quantbench.training.checkpoint import Checkpoint
from quantbench.training.fine_tune import Student
from quantbench.training.loop import Loop, fingerprint

_DOCUMENTS = 10_000  # numbers reserved for one step, so that a step's text does not depend on those before it
_GRAD_CLIP = 1.0
_ROUND_UP = 256  # of the vocabulary


def first_model(config: WorldModel) -> Any:
    """The model at its first weights, which the seed fixes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    words = len(vocabulary(default_world().lexicon))
    settings = AutoConfig.for_model(
        "bitnet",
        vocab_size=-(-words // _ROUND_UP) * _ROUND_UP,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=2 * config.seqlen,
        hidden_act="silu",
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AutoModelForCausalLM.from_config(settings, dtype=torch.float32)


def ensure_trained(config: WorldModel, *, device: torch.device) -> None:
    """Train a model in full precision, unless the cache has it; a killed training goes on from its checkpoint."""
    if config.folder.is_dir():
        return
    model = first_model(config).to(device)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    groups: list[ParameterGroup] = [
        {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": others, "lr": config.lr, "weight_decay": 0.0},
    ]
    place = cache_dir() / "training" / f"{config.folder.name}.pt"

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits

    _train(config, logits, groups, device=device, checkpoint=place)
    _save(model.to("cpu"), config.folder)


def from_scratch(
    config: WorldModel, variant: Variant, result: VariantResult, *, device: torch.device, checkpoint: Path | None
) -> VariantResult:
    """The training of :func:`ensure_trained` once more, with quantized linears.

    result: of a walk over the full-precision twin, which says what is quantized and how; nothing else of it is used.
    """
    training, model = variant.training, first_model(config)
    assert isinstance(training, Scratch)
    weights = {
        name: training.tunable(
            model.get_submodule(name).weight.to(device), Grid(known.format, variant.range.for_linear(name)), config.lr
        )
        for name, known in result.weights.items()
    }
    start = replace(result, weights={name: weight.result() for name, weight in weights.items()}, parameters={})
    student = Student(model, start, weights, device)
    rest = list(student.module.requires_grad_(True).parameters())
    groups = [group | {"weight_decay": config.weight_decay} for w in weights.values() for group in w.groups()]
    groups.append({"params": rest, "lr": config.lr * training.lr_factor, "weight_decay": 0.0})
    losses = _train(config, student.logits, groups, device=device, checkpoint=checkpoint)
    parameters = {name: p.detach().cpu() for name, p in student.module.named_parameters()}
    trained = {name: weight.result().to("cpu") for name, weight in weights.items()}
    return replace(result, weights=trained, parameters=parameters, layers={}, latent={}, losses=losses)


def _train(
    config: WorldModel,
    logits: Callable[[Tensor], Tensor],
    groups: Sequence[ParameterGroup],
    *,
    device: torch.device,
    checkpoint: Path | None,
) -> list[float]:
    """Lower the cross-entropy of the world's text; the text of a step depends on its number alone."""
    world = default_world()
    words = vocabulary(world.lexicon)
    schedule = Schedule(config.steps, config.batch_size, warmup=config.warmup, hold=1 - config.decay, decay="linear")
    place = None
    if checkpoint is not None:
        place = Checkpoint(checkpoint, fingerprint(config, *(p for group in groups for p in group["params"])))

    def loss(step: int) -> Tensor:
        batch = windows(world, words, "train", step * _DOCUMENTS, rows=config.batch_size, length=config.seqlen).to(
            device
        )
        return cross_entropy(logits(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())

    optimizer = torch.optim.AdamW(list(groups), betas=(0.9, 0.95))
    losses = Loop(f"train {config.name}", [optimizer], schedule, loss, lambda: None, _GRAD_CLIP, place).run()
    if place is not None:
        place.remove()
    return losses


def _save(model: nn.Module, folder: Path) -> None:
    """Write a model and the world's tokenizer beside, then rename, so that there is never half a model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        model.save_pretrained(temporary)  # type: ignore[operator]
        assets = Path(str(resources.files("quantbench"))) / "assets" / "world"
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(assets / file, temporary / file)
        if not folder.is_dir():  # another process may have been faster
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
