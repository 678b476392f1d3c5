#!/usr/bin/env bash
# Every method preset at its natural bits and group on the embedded model, and the table of them.
# usage: experiments/every-method/run.sh [key=value ...]   (settings to change, e.g. results_dir=results/mine)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
results=results/every-method
"$python" -m quantbench -m 'method=glob(*,exclude=*_best)' results_dir="$results" logger=none \
    evaluation.max_windows=20 'evaluation.tasks=[]' calibration.num_samples=8 "$@"
"$python" -m quantbench table "$results" --rows method,bits_per_weight --cols metric \
    --metric perplexity,perplexity_ratio,kl_divergence --mix statistics -o "$results/methods.md"
cat "$results/methods.md"
