"""Make the shipped model of a trained one: ``python experiments/embedded-model/finish.py --trained DIR --out ASSETS``.

Moves scales between channels, which leaves the function as it is, checks that it did, and stores bf16 weights.
"""

import argparse
import copy
import shutil
from pathlib import Path

import torch
from outliers import Outliers, rescale
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantbench.data.world import corpus

_WINDOW = 512
_LARGEST_DIFFERENCE = 1e-3  # of a logit; fp32 rounding moves them by about 1e-5


@torch.no_grad()
def finish(trained: Path, out: Path, outliers: Outliers) -> None:
    """Write config, weights and tokenizer files into ``out``; anything else there stays."""
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    ids = torch.tensor([tokenizer("\n\n".join(corpus("validation", 20)))["input_ids"][:_WINDOW]])
    shipped = copy.deepcopy(model)
    rescale(shipped, outliers)
    moved = (model(ids).logits - shipped(ids).logits).abs().max().item()
    if moved > _LARGEST_DIFFERENCE:
        raise RuntimeError(f"rescaling changed a logit by {moved}")
    shipped.to(torch.bfloat16).save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(trained / file, out / file)
    (out / "generation_config.json").unlink(missing_ok=True)
    print(f"wrote {out}; rescaling moved no logit by more than {moved:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, required=True, help="folder `trained` that train.py made")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shipped model")
    arguments = parser.parse_args()
    finish(arguments.trained, arguments.out, Outliers())


if __name__ == "__main__":
    main()
