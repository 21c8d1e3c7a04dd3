#!/usr/bin/env bash
# The quick suite; with --full first, all of it. More arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

selection="not browser and not full"
if [ "${1:-}" = --full ]; then
    selection="not browser"
    shift
fi
echo "without the tests in a browser: bash scripts/test.sh -m browser runs them, given Debian's chromium and chromium-driver"
pytest_in .venv -m "$selection" "$@"
