"""Weights files of ours and of other programs."""
