"""Train the embedded model: ``python experiments/embedded-model/train.py --out DIR``.

Start it again with the same DIR after an interruption and it goes on from the last checkpoint. DIR/trained holds the
fp32 weights; ``finish.py`` makes the shipped model of them.
"""

import argparse
import os
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from quantbench.data.world.batches import windows
from quantbench.data.world.generator import KIND_WEIGHTS, World
from quantbench.data.world.tokenizer import save_tokenizer, vocabulary

SEED = 0
TOKENS_PER_STEP = 8192
SHORT, LONG = 256, 512
LONG_FROM = 0.75  # the last quarter trains on the full context; short windows before it are a fifth faster
PHASES = ((2000, {"Register": 0.69, "Essay": 0.13, "Story": 0.1, "Ledger": 0.08}), (1000, KIND_WEIGHTS))
STEPS = sum(steps for steps, _ in PHASES)
WARMUP, DECAY = 100, 0.4  # steps, and the fraction of a phase
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.05
DOCUMENTS_PER_STEP = 10_000  # numbers reserved for one step, so that a resumed run sees the same text
CHECKPOINT_SECONDS, VALIDATE_EVERY = 120, 200


def build_model(vocabulary_size: int) -> LlamaForCausalLM:
    """A Llama whose linears all have widths that are multiples of 256."""
    config = LlamaConfig(
        vocab_size=-(-vocabulary_size // 256) * 256, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, head_dim=64, max_position_embeddings=LONG,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


@dataclass(frozen=True)
class Plan:
    """What one step does: which text, how long its windows are, how fast it learns."""

    world: World
    length: int
    learning_rate: float


def plan(worlds: list[World], step: int) -> Plan:
    """Each phase warms up, stays and decays to zero, and ends on the full context."""
    phase, start = (0, 0) if step < PHASES[0][0] else (1, PHASES[0][0])
    done = (step - start) / PHASES[phase][0]
    factor = min((step - start + 1) / WARMUP, 1.0, (1 - done) / DECAY)
    return Plan(worlds[phase], LONG if done >= LONG_FROM else SHORT, LEARNING_RATE * factor)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write beside and rename, so that a killed run never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(out: Path, *, compiled: bool) -> LlamaForCausalLM:
    """Run the steps that the checkpoint in ``out`` lacks."""
    worlds = [World(kinds=kinds) for _, kinds in PHASES]
    ids = vocabulary(worlds[0].lexicon)
    model = build_model(len(ids))
    optims = optimizers(model)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.lm_head(model.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state)
        return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    step_loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    validation = {world: windows(world, ids, "validation", 0, rows=32, length=SHORT) for world in worlds}
    checkpoint, first, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optimizers"], strict=True):
            optim.load_state_dict(saved)
        first, spent = state["step"], state["seconds"]
    begun = saved_at = time.monotonic()
    for step in range(first, STEPS):
        now = plan(worlds, step)
        for group in chain.from_iterable(optim.param_groups for optim in optims):
            group["lr"] = now.learning_rate
        rows, number = TOKENS_PER_STEP // now.length, step * DOCUMENTS_PER_STEP
        batch = windows(now.world, ids, "train", number, rows=rows, length=now.length)
        loss = step_loss(batch)
        loss.backward()
        for optim in optims:
            optim.step()
            optim.zero_grad()
        done, seconds = step + 1, time.monotonic() - begun
        if done % 20 == 0:
            left = seconds / (done - first) * (STEPS - done)
            speed = (done - first) * TOKENS_PER_STEP / seconds
            print(f"step {done}/{STEPS} loss {loss.item():.4f} {speed:.0f} tok/s {left / 60:.1f} min left", flush=True)
        if done % VALIDATE_EVERY == 0 or done == STEPS:
            with torch.no_grad():
                print(f"step {done} validation loss {loss_of(validation[now.world]).item():.4f}", flush=True)
        if begun + seconds - saved_at > CHECKPOINT_SECONDS or done == STEPS:
            save_checkpoint(checkpoint, {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optims],
                                         "step": done, "seconds": spent + seconds})  # fmt: skip
            saved_at = begun + seconds
    print(f"trained {STEPS} steps in {(spent + time.monotonic() - begun) / 60:.1f} min", flush=True)
    save_tokenizer(worlds[0].lexicon, out / "trained")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the trained model")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler; a fifth faster)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.out, compiled=arguments.compile).save_pretrained(arguments.out / "trained")


if __name__ == "__main__":
    main()
