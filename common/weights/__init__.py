"""Weights files: our own, and other programs' names for the same tensors."""
