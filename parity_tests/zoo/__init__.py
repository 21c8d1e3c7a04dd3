"""Public implementations of the same networks, written by others, held against each other."""
