"""``python -m quantbench bench store``: a large synthetic store, loaded and tabulated; many writers at once."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from quantbench.arguments import ArgumentParser
from quantbench.bench.stopwatch import seconds_of
from quantbench.measurement import Measurement, Samples
from quantbench.store.compaction import RUNS, SAMPLES, write_sorted
from quantbench.store.files import write_synced
from quantbench.store.identity import machine, versions
from quantbench.store.parquet import Store, load
from quantbench.store.record import RUN_SCHEMA, SAMPLES_SCHEMA, RunIdentity, run_table, samples_table

_METHODS, _BITS, _GROUPS = ("rtn", "gptq", "awq", "hqq"), (2, 3, 4, 8), (32, 64, 128)
_WINDOWS = 10
_CHUNK = 5_000


def main(argv: Sequence[str]) -> int:
    """Measure and print, or write with ``-o``, one JSON object with the seconds of each step."""
    parser = ArgumentParser(prog="quantbench bench store", description="Seconds that a store of many runs takes.")
    parser.add_argument("--runs", type=int, default=100_000, help="runs already compacted (%(default)s)")
    parser.add_argument("--loose", type=int, default=200, help="runs with files of their own beside them (%(default)s)")
    parser.add_argument("--writers", type=int, default=8, help="processes writing at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long they write (%(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the JSON to a file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = _measure(Path(folder), arguments)
    text = json.dumps(report, indent=1)
    if arguments.output is None:
        print(text)
    else:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")
    return 0


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    large, crowded = Store(folder / "large"), folder / "crowded"
    large.check_writable()
    _write_compacted(large.root, arguments.runs)
    seconds = {"write_loose": seconds_of(lambda: _write_loose(large, arguments.runs, arguments.loose))}
    seconds["load_one_metric"] = seconds_of(lambda: load(large.root, metrics=["perplexity"]))
    seconds["load_all"] = seconds_of(lambda: load(large.root))
    seconds["table"] = seconds_of(lambda: _table(large.root))
    seconds["compact"] = seconds_of(large.compact)
    seconds["table_compacted"] = seconds_of(lambda: _table(large.root))
    seconds["samples_of_a_run"] = seconds_of(lambda: large.samples(_run_id(0)))
    frame = load(large.root)
    sizes = {path.name: path.stat().st_size for path in sorted(large.root.glob("*.parquet"))}
    return {
        "runs": frame["run_id"].nunique(),
        "rows": len(frame),
        "bytes": sizes,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "crowd": _crowd(crowded, arguments.writers, arguments.seconds),
        "machine": machine(),
        "versions": versions(),
    }


def _table(root: Path) -> None:
    """The verb as a user starts it: a new process, imports included."""
    condition = ["--where", "seed=1", "group_size=64"]
    command = [sys.executable, "-m", "quantbench", "table", str(root), "--rows", "method", "--cols", "bits", *condition]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _crowd(root: Path, writers: int, seconds: float) -> dict[str, int | float]:
    """Processes that write runs of their own, and one that all write, until the time is up; then count."""
    context = get_context("spawn")
    with context.Pool(writers) as pool:
        counts = pool.starmap(_write_for, [(str(root), number, seconds) for number in range(writers)])
    frame = load(root)
    store = Store(root)
    whole = sum(len(store.samples(run_id)) == _WINDOWS for run_id in frame["run_id"].unique())
    return {
        "writers": writers,
        "seconds": seconds,
        "written": sum(counts) + 1,
        "readable": int(frame["run_id"].nunique()),
        "with_samples": whole,
        "rows_twice": int(frame.duplicated(["run_id", "metric", "task"]).sum()),
    }


def _write_for(root: str, writer: int, seconds: float) -> int:
    store, count = Store(root), 0
    store.write(_identity(0, run_id="shared"), _measurements(writer))
    end = time.monotonic() + seconds  # the first write imports what it needs
    while time.monotonic() < end:
        store.write(_identity(count, run_id=f"w{writer}-{count}"), _measurements(count))
        count += 1
        if count % 10 == 0:
            store.write(_identity(0, run_id="shared"), _measurements(writer))
    return count


def _write_loose(store: Store, first: int, count: int) -> None:
    for number in range(first, first + count):
        store.write(_identity(number), _measurements(number))


def _write_compacted(root: Path, count: int) -> None:
    """What compaction would have left of so many runs, without the hour that writing them one by one takes."""
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    runs = (pa.concat_tables([run_table(_identity(n), _measurements(n)) for n in chunk]) for chunk in chunks)
    write_synced(root / RUNS, lambda file: write_sorted(file, runs, RUN_SCHEMA))
    samples = (pa.concat_tables([samples_table(_run_id(n), _measurements(n)) for n in chunk]) for chunk in chunks)
    write_synced(root / SAMPLES, lambda file: write_sorted(file, samples, SAMPLES_SCHEMA))


def _run_id(number: int) -> str:
    return f"{number:016x}"


def _measurements(number: int) -> list[Measurement]:
    nll = 2.0 + np.random.default_rng(number).random(_WINDOWS)
    samples = Samples(tuple(f"w{i}" for i in range(_WINDOWS)), nll, np.full(_WINDOWS, 255.0), nll - 0.1)
    value = float(np.exp(nll.mean()))
    return [
        Measurement("perplexity", "world", value, "ppl", _WINDOWS, baseline=7.0, samples=samples),
        Measurement("perplexity_ratio", "world", value / 7, "ratio", _WINDOWS, baseline=1.0),
        Measurement("kl_divergence", "world", 0.01, "nats", _WINDOWS, baseline=0.0),
        Measurement("top1_agreement", "world", 0.9, "fraction", _WINDOWS, baseline=1.0, higher_is_better=True),
    ]


def _identity(number: int, run_id: str | None = None) -> RunIdentity:
    """A run of a sweep over methods, bits, groups and seeds, with a configuration of the usual length."""
    rest, method = divmod(number, len(_METHODS))
    rest, bits = divmod(rest, len(_BITS))
    seed, group = divmod(rest, len(_GROUPS))
    config = {
        "bits": _BITS[bits],
        "seed": seed,
        "rounding": {"damp_percent": 0.01, "act_order": False},
        "evaluation": {"num_fewshot": None},
        "settings": {f"setting_{index}": index * 1.5 for index in range(80)},
    }
    return RunIdentity(
        run_id=run_id or _run_id(number),
        method=_METHODS[method],
        variant="",
        format="int",
        range="minmax",
        transform="none",
        rounding=_METHODS[method],
        allocation="uniform",
        activation="none",
        kv_cache="none",
        training="none",
        bits=_BITS[bits],
        activation_bits=16,
        kv_bits=16,
        group_size=_GROUPS[group],
        symmetric=False,
        statistics="fp",
        bits_per_weight=_BITS[bits] + 0.25,
        quantized_bytes=10**6,
        model_bytes=2 * 10**6,
        model="synthetic",
        model_revision="sha256:0",
        protocol="gptq-256",
        corpus="world",
        evaluation_hash="0",
        calibration="world",
        num_samples=64,
        seqlen=256,
        calibration_hash="0",
        contaminated=False,
        seed=seed,
        dtype="float32",
        device="cpu",
        config=json.dumps(config),
        versions=json.dumps({"python": "3"}),
        git_commit=None,
        git_dirty=None,
        created="2026-01-01T00:00:00+00:00",
        seconds=json.dumps({"quantize": 1.0 + number % 7}),
        peak_memory=json.dumps({"quantize": {"host": 10**9}}),
        notes="[]",
    )
