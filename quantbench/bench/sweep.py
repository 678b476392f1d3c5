"""``python -m quantbench bench sweep``: what a sweep costs beside the same runs one by one."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError

if TYPE_CHECKING:
    import torch

    from quantbench.methods.variant import Variant

_DESCRIPTION = """Seconds of a sweep and of its runs one by one, and the ratios. Parts: walk (loading and quantizing in
this process, statistics of full precision), gptq (13 GPTQ configurations in one walk beside one), command (the whole
command, evaluation included, in processes of their own: the sweep, each of its runs alone, the sweep again)."""
_WORLD = Path(__file__).resolve().parents[1] / "assets" / "world"
_PARTS = ("walk", "gptq", "command")
_GPTQ = [(bits, group) for group in (32, 64) for bits in (2, 3, 4, 5, 6, 8)] + [(4, 128)]


def main(argv: Sequence[str]) -> int:
    """Measure the parts asked for, print them and write them to a file."""
    args = _arguments(argv)
    found: dict[str, Any] = {"setting": _setting(args)}
    if "walk" in args.parts:
        found["walk"] = _walk(args, _points(args))
    if "gptq" in args.parts:
        found["gptq"] = _gptq(args)
    if "command" in args.parts:
        found["command"] = _command(args)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "sweep.json").write_text(json.dumps(found, indent=1) + "\n")
    for part in _PARTS:
        for name, value in found.get(part, {}).items():
            print(f"{part:<8} {name:<28} {value:.2f}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="quantbench bench sweep", description=_DESCRIPTION)
    parser.add_argument("--model", type=Path, default=_WORLD, help="model directory (default: the embedded model)")
    parser.add_argument("--calibration", default="world", help="text to calibrate on: a name or a file")
    parser.add_argument("--text", default="world", help="text to score on: a name or a file")
    parser.add_argument("--methods", nargs="+", default=["rtn", "gptq", "awq", "hqq"])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--samples", type=int, default=16, help="calibration sequences")
    parser.add_argument("--seqlen", type=int, default=256, help="tokens of a calibration sequence")
    parser.add_argument("--windows", type=int, default=8, help="windows that are scored")
    parser.add_argument("--protocol", default="gptq-256", help="of scoring")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--once", action="store_true", help="run alone: one bit-width and group size of each method")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/bench-sweep"), help="folder of results")
    args = parser.parse_args(argv)
    if not (args.model / "config.json").is_file():
        raise InputError(f"--model {args.model}: no model directory (config.json is missing)")
    return args


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    facts = {name: getattr(args, name) for name in ("methods", "bits", "groups", "samples", "seqlen", "windows")}
    return facts | {"model": args.model.name, "protocol": args.protocol, "threads": torch.get_num_threads()}


def _points(args: argparse.Namespace) -> list[list[str]]:
    """The settings of every run of the sweep."""
    every = product(args.methods, args.bits, args.groups)
    return [[f"method={method}", f"bits={bits}", f"group_size={group}", "stats=fp"] for method, bits, group in every]


def _alone(args: argparse.Namespace, points: list[list[str]]) -> tuple[list[list[str]], float]:
    """The runs to measure alone, and how many each stands for."""
    if not args.once:
        return points, 1.0
    picked = [point for point in points if point[1:3] == [f"bits={args.bits[-1]}", f"group_size={args.groups[-1]}"]]
    return picked, len(points) / len(picked)


def _walk(args: argparse.Namespace, points: list[list[str]]) -> dict[str, float]:
    """Loading, calibration tokens and quantization: all runs in one walk, then each by itself."""
    together = _quantized(args, [_variant(point) for point in points])
    picked, weight = _alone(args, points)
    singles = [_quantized(args, [_variant(point)]) for point in picked]
    found = {f"alone {point[0].removeprefix('method=')}": s for point, s in zip(picked, singles, strict=True)}
    total = sum(singles) * weight
    return found | {"runs": float(len(points)), "together": together, "alone, all": total, "ratio": total / together}


def _gptq(args: argparse.Namespace) -> dict[str, float]:
    """Configurations of GPTQ on one set of statistics, loading apart."""
    import torch

    loaded, ids = _loaded(args)
    variants = [_variant(["method=gptq", f"bits={b}", f"group_size={g}", "stats=fp"]) for b, g in _GPTQ]
    seconds = [_seconds_of(loaded, ids, chosen, torch.device("cpu")) for chosen in (variants[:1], variants)]
    return {"one": seconds[0], "thirteen": seconds[1], "ratio": seconds[1] / seconds[0]}


def _quantized(args: argparse.Namespace, variants: "list[Variant]") -> float:
    import torch

    start = time.perf_counter()
    loaded, ids = _loaded(args)
    _seconds_of(loaded, ids, variants, torch.device("cpu"))
    return time.perf_counter() - start


def _variant(settings: list[str]) -> "Variant":
    from quantbench.config import check_command_line

    return check_command_line([*settings, "logger=none"], multirun=False)[0].variant()


def _loaded(args: argparse.Namespace) -> "tuple[Any, torch.Tensor]":
    from quantbench.data.calibration import Calibration, build
    from quantbench.models.load import LocalModel, load

    loaded = load(LocalModel(path=str(args.model)), "float32")
    split = "calibration" if args.calibration == "world" else "train"
    calibration = Calibration(args.calibration, split, args.samples, args.seqlen, "random_windows")
    return loaded.model, build(calibration, loaded.tokenizer, seed=0).ids


def _seconds_of(model: Any, ids: "torch.Tensor", variants: "list[Variant]", device: "torch.device") -> float:
    from quantbench.models.structure import find_structure
    from quantbench.models.walk import quantize

    start = time.perf_counter()
    quantize(model, find_structure(model), variants, ids, device=device)
    return time.perf_counter() - start


def _command(args: argparse.Namespace) -> dict[str, float]:
    """The command as users give it, full precision's scores cached beforehand for both sides."""
    texts = [_text("calibration", args.calibration), _text("evaluation", args.text)]
    common = [setting for text in texts for setting in text]
    common += [f"calibration.num_samples={args.samples}", f"calibration.seqlen={args.seqlen}", "stats=fp"]
    common += [f"evaluation.protocol={args.protocol}", f"evaluation.max_windows={args.windows}", "evaluation.tasks=[]"]
    common += ["calibration.sampling=random_windows", "model=local", f"model.path={args.model}", "dtype=float32"]
    common += ["logger=none"]
    axes = {"method": args.methods, "bits": args.bits, "group_size": args.groups}
    sweep = ["-m", *common, *(f"{axis}={','.join(map(str, values))}" for axis, values in axes.items())]
    picked, weight = _alone(args, _points(args))
    with tempfile.TemporaryDirectory() as folder:
        _timed([*common, "method=fp16", f"results_dir={folder}/full"], folder)
        first, again = (_timed([*sweep, f"results_dir={folder}/sweep"], folder) for _ in range(2))
        alone = sum(_timed([*common, *point, f"results_dir={folder}/alone"], folder) for point in picked) * weight
    seconds = {"together": first, "together again": again, "alone, all": alone}
    return seconds | {"ratio": alone / first, "ratio, again": first / again}


def _text(group: str, name: str) -> list[str]:
    return [f"{group}=world"] if name == "world" else [f"{group}=local", f"{group}.corpus={name}"]


def _timed(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    environment = os.environ | {"QUANTBENCH_CACHE": f"{folder}/cache"}
    command = [sys.executable, "-m", "quantbench", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"bench sweep: a run failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start
