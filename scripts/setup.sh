#!/usr/bin/env bash
# Makes .venv with the pinned versions, once: sourced by demo.sh and test.sh, which then find
# its Python first on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

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

environment .venv requirements.txt
export PATH="$PWD/.venv/bin:$PATH"
