"""``python -m quantbench bench sweep``: what a sweep costs beside the same runs one by one."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quantbench.arguments import ArgumentParser
from quantbench.errors import InputError

if TYPE_CHECKING:
    import torch

    from quantbench.methods.variant import Variant

_DESCRIPTION = """What a sweep and its runs one by one take, and the ratios: seconds by the clock, and of the processor,
which other work on the machine disturbs less. Parts: walk (loading and quantizing in this process, statistics of full
precision), gptq (13 GPTQ configurations in one walk beside one), command (the whole command, evaluation included, in
processes of their own: the sweep, each of its runs alone, the sweep again)."""
_WORLD = Path(__file__).resolve().parents[1] / "assets" / "world"
_PARTS = ("walk", "gptq", "command")
_GPTQ = [(bits, group) for group in (32, 64) for bits in (2, 3, 4, 5, 6, 8)] + [(4, 128)]


class Cost(NamedTuple):
    """Seconds by the clock and of the processor."""

    wall: float
    cpu: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def over(self, other: "Cost") -> "Cost":
        """How many times the other's seconds."""
        return Cost(self.wall / other.wall, self.cpu / other.cpu)

    @classmethod
    def now(cls) -> "Cost":
        """Since some fixed moment; children that have ended count."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime)

    @classmethod
    def total(cls, parts: "Sequence[Cost]", weight: float) -> "Cost":
        """The sum of the parts, each standing for ``weight`` like it."""
        return cls(weight * sum(part.wall for part in parts), weight * sum(part.cpu for part in parts))


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
    (args.output / "sweep.json").write_text(json.dumps(found | _json(found), indent=1) + "\n")
    print(f"{'part':<8} {'what':<28} {'clock, s':>10} {'cpu, s':>10}")
    for part in _PARTS:
        for name, cost in found.get(part, {}).items():
            print(f"{part:<8} {name:<28} {cost.wall:10.2f} {cost.cpu:10.2f}")
    return 0


def _json(found: dict[str, Any]) -> dict[str, Any]:
    return {part: {name: c._asdict() for name, c in found[part].items()} for part in _PARTS if part in found}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="quantbench bench sweep", description=_DESCRIPTION)
    parser.add_argument("--model", type=Path, default=_WORLD, help="model directory (default: the embedded model)")
    parser.add_argument("--calibration", default="world", help="text to calibrate on: a name or a file")
    parser.add_argument("--text", default="world", help="text to score on: a name or a file")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["rtn", "gptq", "awq", "hqq"],
        help="presets; without the part command also with settings (awq,transform.objective=linear)",
    )
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
    changed = [method for method in args.methods if "," in method]
    if changed and "command" in args.parts:
        raise InputError(f"--methods {changed[0]}: settings are allowed without the part command")
    return args


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    facts = {name: getattr(args, name) for name in ("methods", "bits", "groups", "samples", "seqlen", "windows")}
    return facts | {"model": args.model.name, "protocol": args.protocol, "threads": torch.get_num_threads()}


def _points(args: argparse.Namespace) -> list[list[str]]:
    """The settings of every run of the sweep."""
    points = []
    for method, bits, group in product(args.methods, args.bits, args.groups):
        preset, *settings = method.split(",")
        points.append([f"method={preset}", f"bits={bits}", f"group_size={group}", "stats=fp", *settings])
    return points


def _alone(args: argparse.Namespace, points: list[list[str]]) -> tuple[list[list[str]], float]:
    """The runs to measure alone, and how many each stands for."""
    if not args.once:
        return points, 1.0
    picked = [point for point in points if point[1:3] == [f"bits={args.bits[-1]}", f"group_size={args.groups[-1]}"]]
    return picked, len(points) / len(picked)


def _walk(args: argparse.Namespace, points: list[list[str]]) -> dict[str, Cost]:
    """Loading, calibration tokens and quantization: all runs in one walk, then each by itself."""
    together = _quantized(args, [_variant(point) for point in points])
    picked, weight = _alone(args, points)
    singles = [_quantized(args, [_variant(point)]) for point in picked]
    found = {f"alone {point[0].removeprefix('method=')}": s for point, s in zip(picked, singles, strict=True)}
    total = Cost.total(singles, weight)
    return found | {"together": together, "alone, all": total, "ratio": total.over(together)}


def _gptq(args: argparse.Namespace) -> dict[str, Cost]:
    """Configurations of GPTQ on one set of statistics, loading apart."""
    import torch

    loaded, ids = _loaded(args)
    variants = [_variant(["method=gptq", f"bits={b}", f"group_size={g}", "stats=fp"]) for b, g in _GPTQ]
    one, thirteen = [_cost_of(loaded, ids, chosen, torch.device("cpu")) for chosen in (variants[:1], variants)]
    return {"one": one, "thirteen": thirteen, "ratio": thirteen.over(one)}


def _quantized(args: argparse.Namespace, variants: "list[Variant]") -> Cost:
    import torch

    start = Cost.now()
    loaded, ids = _loaded(args)
    _cost_of(loaded, ids, variants, torch.device("cpu"))
    return Cost.now() - start


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


def _cost_of(model: Any, ids: "torch.Tensor", variants: "list[Variant]", device: "torch.device") -> Cost:
    from quantbench.models.structure import find_structure
    from quantbench.models.walk import quantize

    start = Cost.now()
    quantize(model, find_structure(model), variants, ids, device=device)
    return Cost.now() - start


def _command(args: argparse.Namespace) -> dict[str, Cost]:
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
        alone = [_timed([*common, *point, f"results_dir={folder}/alone"], folder) for point in picked]
    total = Cost.total(alone, weight)
    costs = {"together": first, "together again": again, "alone, all": total}
    return costs | {"ratio": total.over(first), "ratio, again": first.over(again)}


def _text(group: str, name: str) -> list[str]:
    return [f"{group}=world"] if name == "world" else [f"{group}=local", f"{group}.corpus={name}"]


def _timed(arguments: list[str], folder: str) -> Cost:
    start = Cost.now()
    environment = os.environ | {"QUANTBENCH_CACHE": f"{folder}/cache"}
    command = [sys.executable, "-m", "quantbench", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"bench sweep: a run failed: {done.stderr.strip().splitlines()[-1]}")
    return Cost.now() - start
