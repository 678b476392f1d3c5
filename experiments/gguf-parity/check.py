"""Does llama.cpp compute with our GGUF files what we compute? See README.md."""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from quantbench.data.corpora import load_documents, tokenize
from quantbench.store.parquet import Store

TOLERANCE = 0.01


def ours(args: argparse.Namespace, method: str, folder: str) -> tuple[float, float, Path]:
    """Perplexity and bits per weight of one run, and the file that it saved."""
    file = Path(folder) / f"{method}.gguf"
    command = [sys.executable, "-m", "quantbench", f"method={method}", "model=local", f"model.path={args.model}"]
    command += ["dtype=float32", "evaluation=local", f"evaluation.corpus={args.text}", "evaluation.divergence=false"]
    command += [f"evaluation.max_windows={args.windows}", f"evaluation.protocol=gptq-{args.length}", "logger=none"]
    command += ["calibration=local", f"calibration.corpus={args.calibration}", "calibration.num_samples=32"]
    subprocess.run([*command, f"save={file}", f"results_dir={folder}/{method}"], check=True, stdout=sys.stderr)
    rows = Store(f"{folder}/{method}").load()
    row = rows[rows.metric == "perplexity"].iloc[0]
    return float(row.value), float(row.bits_per_weight), file


def theirs(args: argparse.Namespace, file: Path, windows: list[list[int]], text: str | None) -> dict:
    """What llama.cpp says of the same windows."""
    command = [args.llama_python, str(Path(__file__).with_name("score.py")), str(file)]
    request = json.dumps({"windows": windows, "text": text})
    answer = json.loads(subprocess.run(command, input=request, check=True, capture_output=True, text=True).stdout)
    return answer | {"perplexity": math.exp(sum(answer["nll"]) / len(answer["nll"]))}


def main() -> int:
    """Compare method by method; exits with 1 when one differs by more than a hundredth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--llama-python", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--calibration", required=True, help="a text, for the methods that need one")
    parser.add_argument("--methods", default="fp16,q4_0,q4_k,q8_0")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    text = load_documents(args.text, "test").text
    ids = tokenize(AutoTokenizer.from_pretrained(args.model), text).tolist()
    windows = [ids[i * args.length : (i + 1) * args.length] for i in range(args.windows)]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found, same_tokens = {}, None
    for method in args.methods.split(","):
        with tempfile.TemporaryDirectory() as folder:
            perplexity, bits, file = ours(args, method, folder)
            answer = theirs(args, file, windows, text if same_tokens is None else None)
            if same_tokens is None and "ids" in answer:
                same_tokens = answer["ids"] == ids
            found[method] = {
                "bits_per_weight": bits,
                "file_bytes": file.stat().st_size,
                "ours": perplexity,
                "llama.cpp": answer["perplexity"],
                "relative_difference": answer["perplexity"] / perplexity - 1,
            }
        print(method, found[method], flush=True)
        setup = {"windows": args.windows, "length": args.length, "same_tokens_as_llama_cpp": same_tokens}
        args.output.write_text(json.dumps(setup | {"methods": found}, indent=1) + "\n", encoding="utf-8")
    return int(any(abs(row["relative_difference"]) > TOLERANCE for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
