"""HQQ of every linear of a model, ours and the hqq package's, tensor by tensor in turns: seconds and errors.

Runs in an environment with hqq, torch and safetensors, with quantbench on PYTHONPATH; README.md says how.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import HQQ


def theirs(weight: torch.Tensor, bits: int, group_size: int) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    codes, meta = Quantizer.quantize(
        weight, nbits=bits, group_size=group_size, axis=1, device="cpu", bitpack=False, compute_dtype=torch.float32
    )
    seconds = time.perf_counter() - start
    return seconds, ((codes - meta["zero"]) * meta["scale"]).reshape(weight.shape)


def ours(weight: torch.Tensor, bits: int, group_size: int) -> tuple[float, torch.Tensor]:
    grid = Grid(IntFormat(bits=bits, group_size=group_size, zero_point_dtype="float16"), MinMax())
    start = time.perf_counter()
    rounded = HQQ().round(weight, grid, None)
    seconds = time.perf_counter() - start
    return seconds, rounded.weight.dequantize()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with model.safetensors")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--group-size", type=int, default=64)
    given = parser.parse_args()
    weights = load_file(given.model / "model.safetensors")
    linears = [w.float() for name, w in weights.items() if name.endswith("_proj.weight")]
    for solve in (theirs, ours):
        solve(linears[0], 4, given.group_size)
    for bits in given.bits:
        row: dict[str, float | str] = {"bits": bits, "linears": len(linears), "threads": torch.get_num_threads()}
        for solve in (theirs, ours):
            row[f"{solve.__name__}_seconds"] = row[f"{solve.__name__}_error"] = 0.0
        for weight in linears:
            for solve in (theirs, ours):
                seconds, values = solve(weight, bits, given.group_size)
                row[f"{solve.__name__}_seconds"] += seconds
                row[f"{solve.__name__}_error"] += float((values - weight).norm() / weight.norm()) / len(linears)
        row["times_faster"] = row["theirs_seconds"] / row["ours_seconds"]
        print(json.dumps(row | {"hqq": version("hqq"), "torch": version("torch")}))


if __name__ == "__main__":
    main()
