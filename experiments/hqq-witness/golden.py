"""Errors that the hqq package leaves on seeded tensors, written as test data for tests/methods/test_hqq.py.

Runs in an environment with hqq and torch; README.md says how.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import torch
from hqq.core.quantize import Quantizer

GROUP_SIZE, BITS = 64, (2, 3, 4, 8)
DESTINATION = Path(__file__).parents[2] / "tests" / "data" / "hqq_golden.json"
# name -> seed, exponent of a normal variable (3: heavy tails), standard deviation before it, offset
TENSORS = {"gaussian": (0, 1, 0.02, 0.0), "heavy": (1, 3, 0.02, 0.0), "large": (2, 1, 0.4, 0.05)}


def tensor(seed: int, exponent: int, spread: float, offset: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(96, 256, generator=generator).pow(exponent) * spread + offset


def errors(weight: torch.Tensor, bits: int) -> dict[str, float]:
    """Relative l2 and mean absolute error of the package's quantization along the input channels."""
    options = {"nbits": bits, "group_size": GROUP_SIZE, "axis": 1, "device": "cpu", "bitpack": False}
    codes, meta = Quantizer.quantize(weight, **options)
    delta = ((codes - meta["zero"]) * meta["scale"]).reshape(weight.shape) - weight
    return {"relative": float(delta.norm() / weight.norm()), "absolute": float(delta.abs().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--destination", type=Path, default=DESTINATION)
    destination = parser.parse_args().destination
    cases = []
    for name, (seed, exponent, spread, offset) in TENSORS.items():
        weight = tensor(seed, exponent, spread, offset)
        made = {"name": name, "seed": seed, "exponent": exponent, "spread": spread, "offset": offset}
        checksum = float(weight.double().abs().sum())
        cases += [made | {"checksum": checksum, "bits": bits} | errors(weight, bits) for bits in BITS]
    golden = {"hqq": version("hqq"), "torch": version("torch"), "group_size": GROUP_SIZE, "cases": cases}
    destination.parent.mkdir(exist_ok=True)
    destination.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
