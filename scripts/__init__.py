"""The command line: `python -m scripts.<name>`."""
