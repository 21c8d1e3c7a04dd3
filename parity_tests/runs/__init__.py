"""Runs that stop, resume and change framework."""
