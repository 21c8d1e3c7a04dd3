#!/usr/bin/env bash
# The quick suite; with --full first, all of it. More arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

if [ "${1:-}" = --full ]; then
    selection="not browser"
    shift
else
    selection="not browser and not full"
    # LLVM optimizes nothing, so that JAX compiles in half the time. The full suite and worlds.sh
    # have JAX as everyone has it.
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0"
fi
echo "without the tests in a browser: bash scripts/test.sh -m browser runs them, given Debian's chromium and chromium-driver"
pytest_in .venv -m "$selection" "$@"
