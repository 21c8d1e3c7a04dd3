"""The network's definition without a framework: tensors, initial values, sizes, schedule."""
