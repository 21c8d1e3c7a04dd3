"""The solutions in PyTorch."""

# 1 to 7: arrays to loss

# 8 to 14: gradients to processes
