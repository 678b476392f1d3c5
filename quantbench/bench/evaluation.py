"""``python -m quantbench bench evaluation``: our scoring of tasks and perplexity beside what everybody else runs."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantbench.arguments import ArgumentParser
from quantbench.bench.document import write_json
from quantbench.bench.likelihood_race import TaskRace, race_task
from quantbench.bench.perplexity_race import PerplexityRace, race_perplexity
from quantbench.errors import InputError

_DESCRIPTION = """lm-eval tasks scored by ours and by lm-eval's HFLM, and perplexity by ours and by the textbook loop
over transformers (model(ids, labels=ids) per window), on one fp32 model in this process, in turns. A time is reported
only beside how far the scores are apart."""
_WORLD = Path(__file__).resolve().parents[1] / "assets" / "world"


def main(argv: Sequence[str]) -> int:
    """Measure, print a table, write the JSON."""
    args = _arguments(argv)
    if not (args.model / "config.json").is_file():
        raise InputError(f"--model {args.model}: no model directory (config.json is missing)")
    from quantbench.evaluation.config import Evaluation
    from quantbench.evaluation.tasks import check_tasks
    from quantbench.models.load import LocalModel, load
    from quantbench.paths import usable_cache_dir

    cache = usable_cache_dir()
    wanted = [Evaluation(tasks=[name], limit=args.limit, include_path=args.include_path) for name in args.tasks]
    for settings in wanted:
        check_tasks(settings, cache_dir=cache)
    loaded = load(LocalModel(path=str(args.model)), "float32")
    perplexity = None
    if args.windows:
        text = Evaluation(protocol=args.protocol, corpus=args.text, max_windows=args.windows)
        perplexity = race_perplexity(loaded, text, repeats=args.repeats)
    tasks = [
        race_task(loaded, settings, repeats=args.repeats, rival_batch=args.rival_batch, cache_dir=cache)
        for settings in wanted
    ]
    if args.output is not None:
        _write(args.output, _facts(args, loaded), tasks, perplexity)
    sys.stdout.write("\n".join(_table(tasks, perplexity)) + "\n")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="quantbench bench evaluation",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=_WORLD, help="model directory (default: the embedded model)")
    parser.add_argument("--tasks", nargs="*", default=["world_facts"], help="lm-eval task names (none: leave out)")
    parser.add_argument("--include-path", help="a folder of lm-eval task yaml files")
    parser.add_argument("--limit", type=int, default=100, help="items per task")
    parser.add_argument("--rival-batch", type=int, default=1, help="HFLM's batch size")
    parser.add_argument("--text", default="world", help="text for perplexity: a name or a file")
    parser.add_argument("--protocol", default="gptq-256", help="gptq-N: windows of N tokens")
    parser.add_argument("--windows", type=int, default=10, help="windows scored (0: leave out)")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.windows < 0 or args.rival_batch < 1:
        raise InputError("--repeats and --rival-batch: at least 1; --windows: at least 0")
    return args


def _table(tasks: list[TaskRace], perplexity: PerplexityRace | None) -> list[str]:
    lines = [
        "| what | ours, s | theirs, s | times faster | times less processor time | scores apart by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for race in tasks:
        lines.append(
            f"| {race.task}, {race.requests} requests | {race.ours:.2f} | {race.theirs:.2f} | {race.ratio:.2f} "
            f"| {race.processor_theirs / race.processor_ours:.2f} "
            f"| {race.largest_difference:.1e} nats, {race.different_greedy} greedy, {race.different_items} items |"
        )
    if perplexity is not None:
        p = perplexity
        lines += [
            f"| perplexity, {p.windows} windows | {p.ours:.2f} | {p.theirs:.2f} | {p.ratio:.2f} "
            f"| {p.processor_theirs / p.processor_ours:.2f} | {p.relative_difference:.1e} of the perplexity |",
            f"| with KL and top-1 | {p.with_divergence:.2f} | {p.theirs:.2f} | {p.theirs / p.with_divergence:.2f} "
            f"| {p.processor_theirs / p.processor_with_divergence:.2f} | |",
            "",
            "The textbook loop's time: " + ", ".join(f"{name} {share:.0%}" for name, share in p.shares.items()) + ".",
        ]
    return lines


def _facts(args: argparse.Namespace, loaded: Any) -> dict[str, Any]:
    import lm_eval
    import torch
    import transformers

    from quantbench.evaluation.precision import has_amx

    return {
        "model": loaded.identity.name,
        "revision": loaded.identity.revision,
        "text": Path(args.text).name,
        "protocol": args.protocol,
        "limit": args.limit,
        "rival_batch": args.rival_batch,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "amx": has_amx(),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, lm_eval)},
    }


def _write(path: Path, facts: dict[str, Any], tasks: list[TaskRace], perplexity: PerplexityRace | None) -> None:
    result = {
        "setting": facts,
        "tasks": [asdict(race) | {"ratio": race.ratio} for race in tasks],
        "perplexity": None if perplexity is None else asdict(perplexity) | {"ratio": perplexity.ratio},
    }
    write_json(path, result)
