#!/usr/bin/env bash
# RTN, GPTQ and AWQ at 4, 3 and 2 bits on one real model: ten runs, resumable (a stored run is not computed again).
#
#   experiments/first-table/run.sh MODEL_DIR TEST_TEXT CALIBRATION_TEXT [key=value ...]
#
# MODEL_DIR: a model directory or GGUF file; TEST_TEXT: WikiText-2 raw test (wiki.test.raw); CALIBRATION_TEXT: other text.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
model=$1 test=$2 calibration=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
results=$here/../../results/first-table
common=(
  model=local "model.path=$model" dtype=bfloat16
  evaluation=local "evaluation.corpus=$test" evaluation.max_windows=10
  calibration=local "calibration.corpus=$calibration" calibration.num_samples=32 calibration.seqlen=512
  group_size=64 logger=none "results_dir=$results" "$@"
)
python -m quantbench method=fp16 "${common[@]}"
python -m quantbench -m method=rtn,gptq bits=4,3,2 "${common[@]}"
python -m quantbench -m method=awq bits=4,3,2 transform.search_batches=1 "${common[@]}"
for format in md latex csv; do
  case $format in latex) suffix=tex ;; *) suffix=$format ;; esac
  python -m quantbench table "$results" --rows method --cols bits --metric perplexity --mix statistics --format "$format" \
    -o "$results/perplexity.$suffix"
done
