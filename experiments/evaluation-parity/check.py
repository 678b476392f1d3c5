"""Is our full-precision evaluation the field's? Perplexity against a few lines of transformers, tasks against lm-eval.

python experiments/evaluation-parity/check.py MODEL_DIR TEST_TEXT TASKS_FOLDER --tasks NAME,NAME [-o FILE]

TEST_TEXT: WikiText-2 raw test (wiki.test.raw); TASKS_FOLDER: lm-eval yaml files. Writes what it found as JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantbench.store.parquet import Store


def few_lines_of_transformers(model_dir: str, text_file: str, windows: int) -> float:
    """gptq-2048: rows joined by two newlines, non-overlapping windows, exp of the mean NLL over 2047 targets each."""
    rows = ["" if not line.strip() else line + "\n" for line in Path(text_file).read_text().split("\n")[:-1]]
    tokenizer, model = AutoTokenizer.from_pretrained(model_dir), AutoModelForCausalLM.from_pretrained(model_dir).float()
    ids = tokenizer("\n\n".join(rows), return_tensors="pt").input_ids
    with torch.no_grad():
        parts = [ids[:, i * 2048 : (i + 1) * 2048] for i in range(windows)]
        return float(torch.stack([model(part, labels=part).loss for part in parts]).mean().exp())


def lm_eval_items(model_dir: str, folder: str, tasks: str, limit: int) -> dict[str, dict[int, float]]:
    """``lm_eval --model hf``'s correctness of every item, by task."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", tasks, "--include_path", folder]
        command += ["--model_args", f"pretrained={model_dir},dtype=float32", "--limit", str(limit)]
        command += ["--device", "cpu", "--batch_size", "8", "--log_samples", "--output_path", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        items: dict[str, dict[int, float]] = {}
        for task in tasks.split(","):
            lines = next(Path(out).rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()
            items[task] = {row["doc_id"]: float(row["acc"]) for row in map(json.loads, lines)}
        return items


def ours(args: argparse.Namespace, results: str) -> Store:
    """One full-precision run."""
    command = [sys.executable, "-m", "quantbench", "method=fp16", "model=local", f"model.path={args.model}"]
    command += ["dtype=float32", "evaluation=local", f"evaluation.corpus={args.text}", "evaluation.divergence=false"]
    command += [f"evaluation.max_windows={args.windows}", f"evaluation.tasks=[{args.tasks}]", "logger=none"]
    command += [f"evaluation.include_path={args.folder}", f"evaluation.limit={args.limit}", "evaluation.batch_size=8"]
    subprocess.run([*command, f"results_dir={results}"], check=True)
    return Store(results)


def main() -> None:
    """Run both sides and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("folder")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        store = ours(args, results)
        frame = store.load().set_index(["metric", "task"])
        samples = store.samples(frame.run_id.iloc[0]).set_index(["metric", "task"])
    perplexity = float(frame.loc["perplexity"].value.iloc[0])
    reference = few_lines_of_transformers(args.model, args.text, args.windows)
    found = {
        "windows": args.windows,
        "perplexity": {"quantbench": perplexity, "transformers": reference, "relative": perplexity / reference - 1},
        "tasks": {},
    }
    for task, items in lm_eval_items(args.model, args.folder, args.tasks, args.limit).items():
        mine = samples.loc[("acc", task)].sort_values("index").value.tolist()
        theirs = [items[index] for index in sorted(items)]
        found["tasks"][task] = {
            "items": len(theirs),
            "differ": sum(a != b for a, b in zip(mine, theirs, strict=True)),
            "acc": sum(theirs) / len(theirs),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n")
    equal = abs(found["perplexity"]["relative"]) < 1e-4 and not any(t["differ"] for t in found["tasks"].values())
    sys.exit(0 if equal else "the evaluations differ")


if __name__ == "__main__":
    main()
