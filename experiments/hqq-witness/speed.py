"""HQQ of a model's linears, ours and the hqq package's, tensor by tensor in turns: seconds and errors.

Runs in an environment with hqq, torch and safetensors, with quantbench on PYTHONPATH; README.md says how.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file
from torch import Tensor

from quantbench.formats import IntFormat
from quantbench.methods.grid import Grid
from quantbench.methods.range import MinMax
from quantbench.methods.rounding import HQQ


def theirs(weight: Tensor, bits: int, group_size: int) -> Callable[[], Tensor]:
    codes, meta = Quantizer.quantize(weight, nbits=bits, group_size=group_size, axis=1, device="cpu", bitpack=False)
    return lambda: ((codes - meta["zero"]) * meta["scale"]).reshape(weight.shape)


def ours(weight: Tensor, bits: int, group_size: int) -> Callable[[], Tensor]:
    grid = Grid(IntFormat(bits=bits, group_size=group_size, zero_point_dtype="float16"), MinMax())
    return HQQ().round(weight, grid, None).weight.dequantize


@torch.inference_mode()
def compare(linears: list[Tensor], bits: int, group_size: int) -> dict[str, float]:
    """Wall and processor seconds of all linears and the mean relative error, for each side."""
    row: dict[str, float] = {"bits": bits, "linears": len(linears), "weights": sum(w.numel() for w in linears)}
    for solve in (theirs, ours):
        solve(linears[0], bits, group_size)
        row |= {f"{solve.__name__}_{what}": 0.0 for what in ("seconds", "processor_seconds", "error")}
    for weight in linears:
        for solve in (theirs, ours):
            start, start_processor = time.perf_counter(), time.process_time()
            dequantize = solve(weight, bits, group_size)
            row[f"{solve.__name__}_seconds"] += time.perf_counter() - start
            row[f"{solve.__name__}_processor_seconds"] += time.process_time() - start_processor
            row[f"{solve.__name__}_error"] += float((dequantize() - weight).norm() / weight.norm()) / len(linears)
    return row | {"times_faster": row["theirs_seconds"] / row["ours_seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with model.safetensors")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--every", type=int, default=1, help="take every n-th linear only")
    given = parser.parse_args()
    weights = load_file(given.model / "model.safetensors")
    linears = [w.float() for name, w in weights.items() if name.endswith("_proj.weight")][:: given.every]
    setting = {"threads": torch.get_num_threads(), "hqq": version("hqq"), "torch": version("torch")}
    for bits in given.bits:
        print(json.dumps(compare(linears, bits, given.group_size) | setting), flush=True)


if __name__ == "__main__":
    main()
