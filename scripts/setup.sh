#!/usr/bin/env bash
# Makes .venv with the pinned versions, once: sourced by demo.sh and test.sh, which then find
# its Python first on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Else every process compiles the frameworks' Python files anew, which takes seconds.
unset PYTHONDONTWRITEBYTECODE

python=""
for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: Python 3.11 is needed, as python3.11 or python3 (MXNet cannot be imported by a newer one)" >&2
    exit 2
fi

# environment FOLDER FILE: makes FOLDER with the packages that FILE pins. FOLDER/installed is a copy
# of what was installed: without it, or with another, install.
environment() {
    if ! cmp -s "$2" "$1/installed"; then
        echo "installing into $1 (once) ..."
        "$python" -m venv "$1"
        "$1/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check -r "$2"
        cp "$2" "$1/installed"
    fi
}

# pytest_in FOLDER ARGUMENTS: pytest with that environment, in as many processes as there are cores,
# each computing with one thread, so that they do not fight over the cores. What JAX has compiled is
# kept in .jax_cache, for the processes of this run and for the next one.
pytest_in() {
    local folder=$1
    shift
    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
        JAX_COMPILATION_CACHE_DIR="$PWD/.jax_cache" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.05 \
        "$folder/bin/python" -m pytest -n auto --dist loadfile "$@"
}

environment .venv requirements.txt
export PATH="$PWD/.venv/bin:$PATH"
