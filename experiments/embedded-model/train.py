"""Train the embedded model: ``python experiments/embedded-model/train.py --out DIR``.

Start it again with the same DIR after an interruption and it goes on from the last checkpoint. DIR/trained holds the
fp32 weights; ``finish.py`` makes the shipped model of them.
"""

import argparse
import os
import time
from itertools import chain
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from quantbench.data.world.generator import World
from quantbench.data.world.tokenizer import save_tokenizer, vocabulary
from quantbench.data.world.writer import END

SEED = 0
TOKENS_PER_STEP = 8192
SHORT, LONG = 256, 512
LONG_FROM = 0.75  # the last quarter trains on the full context; short windows before it are a fifth faster
WARMUP, DECAY = 100, 0.4
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


def windows(world: World, ids: dict[str, int], split: str, start: int, *, rows: int, length: int) -> torch.Tensor:
    """[rows, length + 1] token ids of consecutive documents from number ``start``."""
    needed = rows * (length + 1)
    stream: list[int] = []
    for document in world.documents(split, start=start):
        stream.extend(ids[word] for word in chain(document.words, [END]))
        if len(stream) >= needed:
            return torch.tensor(stream[:needed]).view(rows, length + 1)
    raise AssertionError("documents() never ends")


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, plateau, linear decay to zero over the last part."""
    return LEARNING_RATE * min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))


def save_checkpoint(path: Path, state: dict) -> None:
    """Write beside and rename, so that a killed run never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(out: Path, steps: int, *, compiled: bool) -> LlamaForCausalLM:
    """Run the steps that the checkpoint in ``out`` lacks."""
    world = World()
    ids = vocabulary(world.lexicon)
    model = build_model(len(ids))
    optims = optimizers(model)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.lm_head(model.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state)
        return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    step_loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    validation = windows(world, ids, "validation", 0, rows=32, length=SHORT)
    checkpoint, first, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optimizers"], strict=True):
            optim.load_state_dict(saved)
        first, spent = state["step"], state["seconds"]
    begun = saved_at = time.monotonic()
    for step in range(first, steps):
        for group in chain.from_iterable(optim.param_groups for optim in optims):
            group["lr"] = learning_rate(step, steps)
        length = LONG if step >= LONG_FROM * steps else SHORT
        batch = windows(world, ids, "train", step * DOCUMENTS_PER_STEP, rows=TOKENS_PER_STEP // length, length=length)
        loss = step_loss(batch)
        loss.backward()
        for optim in optims:
            optim.step()
            optim.zero_grad()
        now = time.monotonic()
        done, seconds = step + 1, now - begun
        if done % 20 == 0:
            left = seconds / (done - first) * (steps - done)
            speed = (done - first) * TOKENS_PER_STEP / seconds
            print(f"step {done}/{steps} loss {loss.item():.4f} {speed:.0f} tok/s {left / 60:.1f} min left", flush=True)
        if done % VALIDATE_EVERY == 0 or done == steps:
            with torch.no_grad():
                print(f"step {done} validation loss {loss_of(validation).item():.4f}", flush=True)
        if now - saved_at > CHECKPOINT_SECONDS or done == steps:
            save_checkpoint(checkpoint, {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optims],
                                         "step": done, "seconds": spent + seconds})  # fmt: skip
            saved_at = now
    print(f"trained {steps} steps in {(spent + time.monotonic() - begun) / 60:.1f} min", flush=True)
    save_tokenizer(world.lexicon, out / "trained")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the trained model")
    parser.add_argument("--steps", type=int, default=2600, help="optimizer steps of 8192 tokens")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler; a fifth faster)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.out, arguments.steps, compiled=arguments.compile).save_pretrained(arguments.out / "trained")


if __name__ == "__main__":
    main()
