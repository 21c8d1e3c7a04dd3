"""Runs the command."""

from scripts.cli import main
from scripts.pitfalls import app

main(app)
