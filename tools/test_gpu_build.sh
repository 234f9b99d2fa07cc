#!/bin/bash
# Sets up for a GPU in a fresh folder, and trains there on the CPU; `make test-gpu-build` calls it.
#
# It shows that the machine needs neither CUDA nor a driver for Horovod with NCCL, that the tests of
# two workers pass on that build, and that it trains to the same bits as the one in .venv. It takes
# 2 GB of downloads and, on two cores, ten minutes or more. It uses no GPU where there is one.
#
#   FOLDER=DIR make test-gpu-build    keeps the new folder DIR; otherwise a temporary one is removed
#   PYTHON=FILE make test-gpu-build   another Python than that of .venv
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$("$here/.venv/bin/python" -c 'import sys; print(sys._base_executable)')}
PATH=${PATH//"$here/.venv/bin:"/}
unset MAKEFLAGS MAKEOVERRIDES MAKELEVEL PYTHON DEVICE
export CUDA_VISIBLE_DEVICES= TF_CPP_MIN_LOG_LEVEL=3

say() {
  echo "[$SECONDS s] $1"
}

# Trains two workers by the code and the environment of a folder, into the folder of a run.
train() {
  (
    cd "$1"
    PATH=$1/.venv/bin:$PATH
    python -m launch.horovodrun -np 2 --gloo python recipe.py --recipe "$fresh/short.yaml" \
      --data_dir "$fresh/data/digits" --run_dir "$2"
  ) >"$2.log" 2>&1 || { tail -n 30 "$2.log" >&2; exit 1; }
}

if [ -n "${FOLDER:-}" ]; then
  mkdir "$FOLDER" # fails where it exists
  fresh=$(cd "$FOLDER" && pwd)
else
  fresh=$(mktemp -d)
fi
cd "$here"
git ls-files -z | xargs -0 cp --parents --target-directory "$fresh"

say "make setup DEVICE=gpu in $fresh, with $("$python" -V)"
make -C "$fresh" --no-print-directory setup DEVICE=gpu PYTHON="$python"
say "the environment is there: $(du -sh "$fresh/.venv" | cut -f 1)"
cd "$fresh"
sed -n '/^Horovod/,$p' .venv/check-build.log | grep .

say "the tests of two workers"
.venv/bin/python -m pytest tests/workers

say "two short runs, in $fresh and in $here"
.venv/bin/python -c 'from datasets.build.digits import prepare_digits; prepare_digits("data/digits")'
sed '/^training_strategy/,$d' recipes/demo.yaml >short.yaml
cat >>short.yaml <<'YAML'
deterministic: true
training_strategy:
- {epoch: [0, 1], lr: [0.02, 0.15], lr_method: linear, batch_size: 50, image_size: [20, 20], data_dir: '20', prefix: train}
- {epoch: [1, 2], lr: [0.15, 0.002], lr_method: exp, batch_size: 40, image_size: [28, 28], data_dir: '28', prefix: train}
YAML
mkdir -p runs
train "$fresh" "$fresh/runs/gpu-build"
train "$here" "$fresh/runs/other-build"
tail -n 1 runs/gpu-build/evaluation.csv
.venv/bin/python - runs/gpu-build/model.keras runs/other-build/model.keras <<'PYTHON'
import hashlib
import sys

import keras

found = [keras.models.load_model(path, compile=False).get_weights() for path in sys.argv[1:]]
digests = [hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest() for arrays in found]
for path, arrays, digest in zip(sys.argv[1:], found, digests):
    print(f"{path}: {sum(a.size for a in arrays):,} numbers, SHA-256 {digest}")
sys.exit(len(set(digests)) > 1 and "the builds trained to different weights")
PYTHON
say "the builds trained to the same bits"
if [ -z "${FOLDER:-}" ]; then rm -r "$fresh"; fi
