#!/usr/bin/env bash
# Two worlds: the suite in .venv-modern, which has the newest of everything and no MXNet; then the
# traces of PyTorch and JAX in both environments, from the same files, held to the float64 gates.
# More arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

environment .venv-modern requirements-modern.txt
.venv-modern/bin/python -m pytest --without mxnet "$@"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from common.checkpoint import write_tensors, write_weights
from common.initial import generic_weights
from common.traces import generic_batches
from common.voc import VOC_CLASSES

folder, classes = Path(sys.argv[1]), len(VOC_CLASSES)
weights = generic_weights("resnet18", classes, seed=3)
batches = generic_batches(5, 2, 64, 96, classes, seed=4)
write_weights(folder / "W.safetensors", weights, "resnet18", VOC_CLASSES)
write_tensors(folder / "B.safetensors", {"image": batches.image, "label": batches.label}, {})
PYTHON
for backend in torch jax; do
    for world in .venv .venv-modern; do
        "$world/bin/python" -m scripts.trace --backend "$backend" --device cpu --dtype float64 \
            --weights "$folder/W.safetensors" --batches "$folder/B.safetensors" --steps 5 \
            --schedule poly --momentum 0.9 --weight-decay 1e-3 --out "$folder/$backend$world.safetensors"
    done
done
python -m scripts.compare "$folder"/{torch,jax}{.venv,.venv-modern}.safetensors
