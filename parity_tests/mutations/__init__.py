"""Porting mistakes, applied one at a time to a backend, to see whether the checks name them.

`python -m parity_tests.mutations`. The catalogue is data: a fault is a few substitutions in the text
of a backend's files, applied in memory.
"""
