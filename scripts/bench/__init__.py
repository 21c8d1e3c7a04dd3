"""`python -m scripts.bench`: speed and memory, side by side.

`torch`, `mxnet` and `jax` are the book's way: the loop of Dive into Deep Learning 14.11, plainly.
Each has a `Trainer(config, bilinear=False)` with `step(images, labels)`, `logits(images)`, which
ends when they are computed, and `predict(images)`; in float32, from images (N, 3, H, W), normalised
on the host, with sides that are multiples of 32, and labels (N, H, W) without void. With `bilinear`
its head is torchvision's kind: the scores at 1/32 are interpolated, where the book learns a
transposed convolution. `product(side, dtype, device)` gives a function that multiplies two square
matrices to the end, and `gpu(device)` tells a GPU's name and how much memory was held there.
"""
