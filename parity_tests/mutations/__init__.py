"""Porting mistakes, put into a backend one at a time, to see whether the checks name them.

`python -m parity_tests.mutations`. The catalogue is data: a mutation is a few patches at seams of a
backend's syntax trees, applied in memory.
"""
