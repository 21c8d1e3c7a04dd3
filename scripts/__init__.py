"""The command line: `python -m scripts.<name>`."""

import sys

# so it is while Python looks for a module to run, and at no import; help needs no large pages
if sys.argv[0] == "-m" and "--help" not in sys.argv:
    from common.machine import restart_with_large_pages

    restart_with_large_pages()
