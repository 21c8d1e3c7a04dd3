#!/usr/bin/env bash
# Public implementations of the same networks held against each other, docs/zoo.md. Hugging Face's
# run in an environment of their own, with the last transformers that has Flax. Arguments go to
# `python -m parity_tests.zoo`: --mutations also puts mistakes in, --markdown docs/zoo.md writes the page.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

environment .venv-zoo parity_tests/zoo/requirements.txt
python -m parity_tests.zoo "$@"
