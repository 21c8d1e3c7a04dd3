#!/usr/bin/env bash
# Runs the whole pytest suite but the tests in a browser; more arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
echo "without the tests in a browser: bash scripts/test.sh -m browser runs them, given Debian's chromium and chromium-driver"
python -m pytest -m "not browser" "$@"
