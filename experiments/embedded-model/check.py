"""Does the embedded model separate methods? ``python experiments/embedded-model/check.py [--results DIR]``.

Runs quantbench on the embedded default, prints one line per run and fails if a requirement of README.md is not met.
"""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd

RUNS = [("rtn", 8), *((method, bits) for bits in (4, 3, 2) for method in ("rtn", "awq", "gptq"))]
BANDS = {8: (-0.2, 0.2), 4: (0.5, 8.0), 3: (3.0, 60.0), 2: (40.0, math.inf)}  # per cent, round-to-nearest
TASKS = ("world_facts", "world_agreement", "world_tracking", "world_arithmetic")
PPL = "perplexity"


def stored_run(method: str, bits: int, results: Path) -> tuple[pd.DataFrame, pd.Series]:
    """(rows of the run, NLL of its windows); a run that is stored already costs nothing."""
    before = set(results.glob("runs/*.parquet"))
    command = [sys.executable, "-m", "quantbench", f"method={method}", f"bits={bits}", "group_size=64", "logger=none"]
    done = subprocess.run([*command, f"results_dir={results}"], check=True, stdout=subprocess.PIPE, text=True)
    new = set(results.glob("runs/*.parquet")) - before
    names = [path for path in results.glob("runs/*.parquet") if path in new or path.stem in done.stdout]
    rows = pd.read_parquet(names[0])
    samples = pd.read_parquet(results / "samples" / names[0].name)
    samples = samples[samples["metric"] == PPL]
    return rows, samples.set_index("key")["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/embedded-model"), help="where runs are stored")
    results = parser.parse_args().results
    increase: dict[tuple[str, int], float] = {}
    windows: dict[tuple[str, int], pd.Series] = {}
    print("| method | bits | perplexity | increase | " + " | ".join(TASKS) + " |\n|" + "---|" * (4 + len(TASKS)))
    for method, bits in RUNS:
        rows, windows[method, bits] = stored_run(method, bits, results)
        perplexity = rows[rows["metric"] == PPL].iloc[0]
        scores = rows[rows["metric"] == "acc"].set_index("task")
        if not increase:
            full = " | ".join(f"{scores.loc[task, 'baseline']:.3f}" for task in TASKS)
            print(f"| full precision | 16 | {perplexity['baseline']:.4f} | | {full} |")
        increase[method, bits] = 100 * (perplexity["value"] / perplexity["baseline"] - 1)
        accuracy = " | ".join(f"{scores.loc[task, 'value']:.3f}" for task in TASKS)
        change = f"{increase[method, bits]:+.2f} %"
        print(f"| {method} | {bits} | {perplexity['value']:.4f} | {change} | {accuracy} |", flush=True)
    failed = [f"rtn at {bits} bit is not within {low} to {high} %" for bits, (low, high) in BANDS.items()
              if not low <= increase["rtn", bits] <= high]  # fmt: skip
    gain = windows["rtn", 3] - windows["gptq", 3]
    half = 1.96 * gain.std() / math.sqrt(len(gain))
    print(f"\nGPTQ lowers the 3-bit NLL of RTN by {gain.mean():.4f} ± {half:.4f} (paired, 95 %)")
    if gain.mean() <= half:
        failed.append("gptq is not better than rtn at 3 bit")
    sys.exit("\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
