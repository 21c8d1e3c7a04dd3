"""What needs no framework: the numbers' one definition, in NumPy."""
