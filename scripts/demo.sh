#!/usr/bin/env bash
# Trains, evaluates and predicts in PyTorch, MXNet and JAX, side by side; pictures in demo/.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python -m scripts.demo demo --out demo
