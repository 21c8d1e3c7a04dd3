"""The command line: `python -m scripts.<name>`."""

import sys

from common.machine import restart_with_large_pages

if sys.argv[0] == "-m":  # so it is while Python looks for a module to run, and at no import
    restart_with_large_pages()
