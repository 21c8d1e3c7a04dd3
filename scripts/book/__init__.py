"""The book's way: the loop of Dive into Deep Learning 14.11, plainly, in each framework.

What `scripts.bench` holds the backends against. Each module has a `Trainer(config)` with
`step(images, labels)` and `predict(images)`, on the CPU, in float32, from the same NumPy arrays
as the backends' own; images have sides that are multiples of 32, labels no void.
"""
