"""Mutants of `common/`: small changes of its code, each of which a test must notice.

The three backends are held against each other; what they share has no other to be compared with.
"""
