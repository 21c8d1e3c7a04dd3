#!/usr/bin/env bash
# Two worlds: the quick suite in .venv-modern, which has the newest of everything and no MXNet; then
# the traces of PyTorch and JAX in both environments, from the same files, held to the float64
# tolerances. More arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

environment .venv-modern requirements-modern.txt
pytest_in .venv-modern --without mxnet -m "not browser and not full" "$@"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m scripts.data generic "$folder" --steps 3
for backend in torch jax; do
    for world in .venv .venv-modern; do
        "$world/bin/python" -m scripts.trace --backend "$backend" --device cpu --dtype float64 \
            --weights "$folder/W.safetensors" --batches "$folder/B.safetensors" --steps 3 \
            --schedule poly --momentum 0.9 --weight-decay 1e-3 --out "$folder/$backend$world.safetensors"
    done
done
python -m scripts.compare "$folder"/{torch,jax}{.venv,.venv-modern}.safetensors
