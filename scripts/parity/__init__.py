"""`python -m scripts.parity`: do all backends compute the same thing?"""
