"""Programs that are none of the three backends and compute the network from the same weights.

Each module writes traces that `scripts.compare` holds against a backend's.
"""
