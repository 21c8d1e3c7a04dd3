"""Traces held against each other: order, tolerances, comparison, verdict."""
