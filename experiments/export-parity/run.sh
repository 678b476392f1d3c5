#!/usr/bin/env bash
# Save the embedded model in two layouts and load them with other versions and another library:
#   experiments/export-parity/run.sh OTHER_COMPRESSED_TENSORS_PYTHON AUTO_ROUND_PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for layout in compressed_tensors gptq; do
  python -m quantbench method=rtn group_size=64 symmetric=true evaluation.max_windows=1 'evaluation.tasks=[]' \
    logger=none results_dir="$out/results" save="$out/$layout" save_layout=$layout
done
load=experiments/export-parity/load.py
python $load "$out/compressed_tensors" "$out/here.pt"
"$1" $load "$out/compressed_tensors" "$out/other.pt"
"$2" $load "$out/gptq" "$out/auto-round.pt"
python - "$out" <<'PY'
import sys
import torch

here, other, gptq = (torch.load(f"{sys.argv[1]}/{name}.pt") for name in ("here", "other", "auto-round"))
for name, logits in (("compressed_tensors, the other versions", other), ("gptq, auto-round", gptq)):
    print(f"{name}: largest difference {float((logits - here).abs().max() / here.abs().max()):.2g} of the largest logit")
PY
