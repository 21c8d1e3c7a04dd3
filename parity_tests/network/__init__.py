"""The network's numbers: definitions, witnesses, every backend against the others."""
