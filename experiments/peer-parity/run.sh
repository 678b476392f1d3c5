#!/usr/bin/env bash
# Ours beside llm-compressor, hqq and auto-round on one model, resumable.
#
#   experiments/peer-parity/run.sh MODEL_DIR CALIBRATION_TEXT TEST_TEXT [NAME=PYTHON ...] [-- option ...]
#
# NAME=PYTHON: a library's interpreter (llmcompressor, hqq, autoround); options: of `python -m quantbench bench quantize`.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
model=$1 calibration=$2 test=$3
shift 3
peers=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do peers+=(--peer "$1"); shift; done
[ $# -eq 0 ] || shift
here=$(cd "$(dirname "$0")" && pwd)
exec python -m quantbench bench quantize --full --bits 4 3 2 --model "$model" --calibration "$calibration" --text "$test" \
  ${peers[@]+"${peers[@]}"} -o "$here/../../results/peer-parity" "$@"
