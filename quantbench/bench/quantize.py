"""``python -m quantbench bench quantize``: our quantizers against other libraries' on the same model and tokens."""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantbench.arguments import ArgumentParser
from quantbench.bench.contenders import Match, matches
from quantbench.bench.runner import Result, Setting, result_path, run_once
from quantbench.errors import InputError

_DESCRIPTION = """Seconds (loading included) and perplexity of quantizing a model, ours beside other libraries', in
turns on the same token ids, each in a process of its own; and the GPTQ solver beside the textbook loop in this process.
A library takes part when its interpreter is given: --peer llmcompressor=PYTHON (names: llmcompressor, hqq, autoround).
Results are kept in the output folder: a study goes on where it stopped."""
_WORLD = Path(__file__).resolve().parents[1] / "assets" / "world"
_RUNNERS = Path(__file__).resolve().parents[2] / "experiments" / "peer-parity" / "peers"


class _Size(NamedTuple):
    samples: int
    seqlen: int
    windows: int
    protocol: str


_FULL = _Size(128, 512, 10, "gptq-2048")
_SMALL = _Size(32, 256, 20, "gptq-256")


def main(argv: Sequence[str]) -> int:
    """Run what is missing, then print and write the table."""
    args = _arguments(argv)
    setting = _setting(args)
    lines = [_solver_line(args.solver_repeats)] if args.solver_repeats else []
    wanted = [match for match in matches(tuple(args.bits)) if not args.only or _method(match) in args.only]
    if args.only and len({_method(match) for match in wanted}) < len(set(args.only)):
        known = sorted({_method(match) for match in matches((4,))})
        raise InputError(f"--only {','.join(args.only)}: allowed are {', '.join(known)}")
    failures = _run(wanted, setting, args)
    table = _table(wanted, setting, failures)
    text = "\n".join([*lines, "", *table] if lines else table) + "\n"
    (setting.out / "table.md").write_text(text)
    sys.stdout.write(text)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="quantbench bench quantize",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=_WORLD, help="model directory (default: the embedded model)")
    parser.add_argument("--calibration", default="world", help="text to calibrate on: a name or a file")
    parser.add_argument("--text", default="world", help="text to score on: a name or a file")
    parser.add_argument("--full", action="store_true", help="128 x 512 calibration tokens, 10 windows of 2048")
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    parser.add_argument("--only", nargs="+", default=[], help="these comparisons alone: gptq, awq, hqq ...")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a library's interpreter")
    parser.add_argument("--runners", type=Path, default=_RUNNERS, help="folder of the libraries' runner scripts")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each contender, in turns")
    parser.add_argument("--solver-repeats", type=int, default=5, help="0: leave the solver alone")
    parser.add_argument("--force", action="store_true", help="run again what is stored")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/bench-quantize"), help="folder of results")
    return parser.parse_args(argv)


def _setting(args: argparse.Namespace) -> Setting:
    """Check what was given and write the token ids that both sides get."""
    import numpy as np
    import torch

    from quantbench.data.calibration import Calibration, build
    from quantbench.models.identity import content_hash
    from quantbench.models.load import load_tokenizer

    size = _FULL if args.full else _SMALL
    peers = dict(given.partition("=")[::2] for given in args.peer)
    for name, python in peers.items():
        if not (args.runners / f"{name}_run.py").is_file():
            raise InputError(f"--peer {name}: no {name}_run.py in {args.runners}")
        if not Path(python).is_file():
            raise InputError(f"--peer {name}={python}: no such interpreter")
    if not (args.model / "config.json").is_file():
        raise InputError(f"--model {args.model}: no model directory (config.json is missing)")
    split = "calibration" if args.calibration == "world" else "train"
    calibration = Calibration(args.calibration, split, size.samples, size.seqlen, "random_windows")
    tokens = build(calibration, load_tokenizer(args.model), seed=0)
    args.output.mkdir(parents=True, exist_ok=True)
    counts = {side.samples for match in matches((4,)) for side in (match.ours, match.theirs)} | {None}
    ids = {count: args.output / f"ids{'' if count is None else f'-{count}'}.npy" for count in counts}
    for count, path in ids.items():
        np.save(path, tokens.ids[:count].numpy())
    facts: dict[str, Any] = {
        "model": f"{args.model.resolve().name} sha256:{content_hash(args.model)[:16]}",
        "calibration_sha256": tokens.hash,
        "scored_on": Path(args.text).name,
        "protocol": size.protocol,
        "windows": size.windows,
        "threads": torch.get_num_threads(),
    }
    return Setting(args.model, ids, args.output, peers, args.runners, args.text, size.protocol, size.windows, facts)


def _run(wanted: list[Match], setting: Setting, args: argparse.Namespace) -> dict[str, str]:
    """Everything that is not stored yet, both sides of a comparison in turns; returns what failed, and why."""
    failures: dict[str, str] = {}
    fresh: dict[str, int] = {}
    for repeat in range(args.repeats):
        for contender in (side for match in wanted for side in (match.ours, match.theirs)):
            if (contender.peer and contender.peer not in setting.peers) or contender.name in failures:
                continue
            stored = 0 if args.force else len(Result.read(result_path(contender, setting), setting.facts).runs)
            if args.force and not repeat and contender.name not in fresh:
                result_path(contender, setting).unlink(missing_ok=True)
            if max(stored, fresh.get(contender.name, 0)) > repeat:
                continue
            sys.stderr.write(f"{contender.name}: run {repeat + 1} of {args.repeats}\n")
            try:
                run_once(contender, setting)
                fresh[contender.name] = repeat + 1
            except InputError as error:
                failures[contender.name] = str(error)
    return failures


def _table(wanted: list[Match], setting: Setting, failures: dict[str, str]) -> list[str]:
    """Markdown: seconds, ratio and paired perplexity difference of each comparison."""
    lines = [
        "| method | bits | ours, s | theirs, s | times faster | without loading | target | ppl ours | ppl theirs "
        "| ratio - 1 (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = list(failures.values())
    for match in wanted:
        ours, theirs = (Result.read(result_path(c, setting), setting.facts) for c in (match.ours, match.theirs))
        if not theirs.runs and match.theirs.name not in failures:
            notes.append(f"{match.theirs.name}: not run, no interpreter given (--peer {match.theirs.peer}=PYTHON)")
        lines.append("| " + " | ".join(_cells(match, ours, theirs)) + " |")
    facts = ", ".join(f"{key} {value}" for key, value in setting.facts.items())
    return [*lines, "", facts, *dict.fromkeys(notes)]


def _cells(match: Match, ours: Result, theirs: Result) -> list[str]:
    method, bits = match.ours.name.removeprefix("ours-").rsplit("-w", 1)
    seconds = [_median(result, "seconds") for result in (ours, theirs)]
    alone = [_median(result, "quantize_seconds") for result in (ours, theirs)]
    perplexity = [math.exp(statistics.fmean(result.nll)) if result.nll else None for result in (ours, theirs)]
    return [
        method,
        bits,
        *(_number(value, 1) for value in seconds),
        *(
            _number(theirs_took / ours_took if ours_took and theirs_took else None, 2)
            for ours_took, theirs_took in (seconds, alone)
        ),
        _number(match.target, 0),
        *(_number(value, 3) for value in perplexity),
        _difference(ours, theirs),
    ]


def _difference(ours: Result, theirs: Result) -> str:
    """Relative perplexity difference of pairs of windows (all as long as each other) with its 95 % interval."""
    if not ours.nll or not theirs.nll:
        return "-"
    import numpy as np

    from quantbench.statistics import paired_difference

    found = paired_difference(ours.nll, theirs.nll, np.ones(len(ours.nll)))
    if found.ratio_low is None or found.ratio_high is None:
        return f"{found.ratio - 1:+.2%}"
    return f"{found.ratio - 1:+.2%} ({found.ratio_low - 1:+.2%} to {found.ratio_high - 1:+.2%})"


def _solver_line(repeats: int) -> str:
    from quantbench.bench.solver import race

    result = race(repeats)
    return (
        f"GPTQ solver, one block of SmolLM2-135M: ours {result.ours:.3f} s, textbook loop {result.textbook:.3f} s, "
        f"{result.ratio:.1f} times faster (target 3; {result.equal_codes:.4%} of the codes equal)"
    )


def _method(match: Match) -> str:
    return match.ours.name.removeprefix("ours-").rsplit("-w", 1)[0]


def _median(result: Result, key: str) -> float | None:
    known = [run[key] for run in result.runs if key in run]
    return statistics.median(known) if known else None


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
