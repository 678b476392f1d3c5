"""``python -m quantbench bench kernels``: every kernel beside what else is on the machine, in one process.

It needs torch alone (and Triton on a GPU), so it also runs as ``python -m quantbench.bench.kernels`` where the rest of
the package's dependencies are missing.
"""

import argparse
import math
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantbench.arguments import ArgumentParser
from quantbench.bench import w8a8_cases
from quantbench.bench.document import write_json
from quantbench.bench.kernel_cases import Case, cases
from quantbench.bench.race import Call, Clock, buffers_past_cache, race, timed
from quantbench.errors import InputError
from quantbench.processor import processor_name

_DESCRIPTION = """Times in microseconds (median, 20th and 80th percentile of interleaved turns; the first call, with
compilation, apart), and what share of this machine's copy bandwidth or matmul peak they are. Buffers are rotated past
the cache. A time is reported only for a result that is right."""
_SIZES = {"cuda": (4096, 8192), "cpu": (1024,)}
_ROWS = {"cuda": (1, 4, 16, 64, 128, 2048), "cpu": (1, 4, 16, 64, 256)}
_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_COPY_BYTES = {"cuda": 2**29, "cpu": 2**26}


def main(argv: Sequence[str]) -> int:
    """Measure, print a line for each contender, write the JSON."""
    args = _arguments(argv)
    if args.registers:
        return _print_registers()
    device = torch.device(args.device)
    ceilings = _ceilings(device, args.repeats, _CLOCKS[args.clock])
    sys.stdout.write(f"{machine(device)['name']}: copy {ceilings['bandwidth'] / 1e9:.0f} GB/s, matmul "
                     f"{ceilings['compute'] / 1e12:.2f} TFLOP/s\n")  # fmt: skip
    results = []
    for size in args.sizes or _SIZES[device.type]:
        rows = args.rows or _ROWS[device.type]
        for case in chain(cases(device, size, rows), w8a8_cases.cases(device, size, rows)):
            if not args.only or any(word in case.name for word in args.only):
                results.append(_measured(case, device, ceilings, args))
                sys.stdout.write("\n".join(_lines(results[-1])) + "\n")
                sys.stdout.flush()
    crossovers = _crossovers(results)
    sys.stdout.write("".join(_crossover_line(name, found) for name, found in crossovers.items()))
    if not results:
        raise InputError(f"--only {' '.join(args.only)}: no case has such a name")
    if args.output is not None:
        found = {
            "machine": machine(device), "date": date.today().isoformat(), "clock": args.clock, "ceilings": ceilings,
            "crossovers": crossovers, "cases": results,
        }  # fmt: skip
        write_json(args.output, found)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="quantbench bench kernels", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    parser.add_argument("--sizes", type=int, nargs="+", help="square matrices of so many rows (multiples of 128)")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of the inputs of linear layers")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases with such a word in their name")
    clocks = "processor: its seconds, for one thread on a machine that others use, too (%(default)s)"
    parser.add_argument("--clock", choices=tuple(_CLOCKS), default="wall", help=clocks)
    parser.add_argument("--repeats", type=int, default=20, help="turns that count")
    parser.add_argument("--warmups", type=int, default=5, help="turns before")
    parser.add_argument("--registers", action="store_true", help="compile for sm_80 and sm_90 instead; needs no GPU")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.device == "cuda" and found == "cpu":
        raise InputError("--device cuda: torch finds no GPU here; allowed is cpu")
    if args.clock == "processor" and (args.device == "cuda" or torch.get_num_threads() > 1):
        raise InputError("--clock processor: allowed on a processor with one thread (OMP_NUM_THREADS=1)")
    if args.repeats < 1 or args.warmups < 0:
        raise InputError("--repeats: at least 1; --warmups: at least 0")
    for size in args.sizes or ():
        if size < 128 or size % 128:
            raise InputError(f"--sizes {size}: allowed are multiples of 128")
    if any(rows < 1 for rows in args.rows or ()):
        raise InputError("--rows: allowed are positive integers")
    return args


def _measured(case: Case, device: torch.device, ceilings: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    """Errors first; then the times of those whose result is right."""
    expected, clock = case.expected(), _CLOCKS[args.clock]
    ready: dict[str, list[Call]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, entry in case.entries.items():
        try:
            calls = [entry.make(index) for index in range(case.copies)]
            result, cold = timed(calls[0], device, clock)  # compilation included, where no case before has done it
        except Exception as reason:  # a rival may fail in any way where it is missing or does not fit
            if name == "ours":
                raise
            found[name] = {"missing": str(reason).splitlines()[0][:200] if str(reason) else type(reason).__name__}
            continue
        error = _error(result, expected)
        found[name] = {"error": error, "cold": cold}
        if error <= entry.tolerance:
            ready[name] = calls
        else:
            found[name]["wrong"] = f"relative error above {entry.tolerance:g}"
    eager = {name for name, entry in case.entries.items() if entry.eager}
    timings = race(ready, device, repeats=args.repeats, warmups=args.warmups, eager=eager, clock=clock)
    for name, timing in timings.items():
        work = case.nbytes if case.unit == "bandwidth" else case.flops
        reached = work / timing.median
        found[name] |= asdict(timing) | {"reached": reached, "share": reached / ceilings[case.unit]}
    return {"case": case.name, "unit": case.unit, "nbytes": case.nbytes, "flops": case.flops, "contenders": found}


def _error(result: Tensor, expected: Tensor) -> float:
    """Root mean square difference over that of the expected result."""
    difference = (result.double() - expected.double()).square().mean().sqrt()
    return float(difference / expected.double().square().mean().sqrt())


def _lines(result: dict[str, Any]) -> list[str]:
    scale, unit = (1e9, "GB/s") if result["unit"] == "bandwidth" else (1e12, "TFLOP/s")
    ours = result["contenders"].get("ours", {}).get("median")
    lines = [result["case"]]
    for name, found in result["contenders"].items():
        if "median" not in found:
            lines.append(f"  {name:22} {found.get('missing') or found.get('wrong')}")
            continue
        micro, reached = [found[key] * 1e6 for key in ("median", "low", "high")], found["reached"] / scale
        ratio = f"{found['median'] / ours:6.2f} x ours" if ours and name != "ours" else ""
        took = f"{micro[0]:10.1f} us ({micro[1]:.1f} to {micro[2]:.1f})"
        lines.append(f"  {name:22} {took}  {reached:8.2f} {unit} {found['share']:6.1%}  {ratio}".rstrip())
    return lines


def _crossovers(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """For each kind of linear layer, up to how many rows a contender is faster than every dense product (0: never)."""
    kinds: dict[str, dict[int, dict[str, float]]] = {}
    for result in results:
        if layer := re.fullmatch(r"(linear .*), (\d+) rows?", result["case"]):
            times = {name: found["median"] for name, found in result["contenders"].items() if "median" in found}
            kinds.setdefault(layer[1], {})[int(layer[2])] = times
    return {kind: _beyond_dense(by_rows) for kind, by_rows in kinds.items()}


def _beyond_dense(by_rows: dict[int, dict[str, float]]) -> dict[str, int]:
    names = {name for times in by_rows.values() for name in times if not name.startswith("dense")}
    reached = dict.fromkeys(sorted(names), 0)
    for name in reached:
        for rows, times in sorted(by_rows.items()):
            if times.get(name, math.inf) >= min(t for other, t in times.items() if other.startswith("dense")):
                break
            reached[name] = rows
    return reached


def _crossover_line(kind: str, reached: dict[str, int]) -> str:
    said = "; ".join(f"{name} {f'to {rows} rows' if rows else 'never'}" for name, rows in reached.items())
    return f"{kind}: faster than dense: {said}\n"


def _ceilings(device: torch.device, repeats: int, clock: Clock) -> dict[str, float]:
    """Bytes a second of a copy (read and written), and FLOP/s of a product in the dtype that models run in."""
    nbytes = _COPY_BYTES[device.type]
    sources = [torch.zeros(nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
    target = torch.empty_like(sources[0])
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    copies: list[Call] = [lambda source=source: target.copy_(source) for source in sources]  # type: ignore[misc]
    found = race({"copy": copies, "product": [lambda: a @ b]}, device, repeats=repeats, warmups=3, clock=clock)
    return {"bandwidth": 2 * nbytes / found["copy"].median, "compute": 2 * side**3 / found["product"].median}


def machine(device: torch.device) -> dict[str, Any]:
    """What a result depends on, for the JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    if find_spec("triton") is not None:
        import triton

        versions["triton"] = triton.__version__
    rotated = buffers_past_cache(2**20, device)
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    return {
        "name": name,
        "capability": capability,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "buffers_of_1_mib": rotated,
    }


def _print_registers() -> int:
    from quantbench.kernels.compiled import ARCHITECTURES, resources, specializations

    if find_spec("triton") is None:
        raise InputError("--registers: Triton is not installed")
    heads = [
        f"sm_{architecture} {what}" for architecture in ARCHITECTURES for what in ("registers", "spills", "shared")
    ]
    sys.stdout.write(f"| kernel | {' | '.join(heads)} |\n| --- {'| ---: ' * len(heads)}|\n")
    for specialization in specializations():
        used = [resources(specialization, architecture) for architecture in ARCHITECTURES]
        cells = [str(value) for found in used for value in asdict(found).values()]
        sys.stdout.write(f"| {specialization.name} | {' | '.join(cells)} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        sys.exit(2)
