"""`python -m scripts.bench`: speed and memory, side by side."""
