"""`python -m scripts.pitfalls`: where the frameworks silently differ."""
