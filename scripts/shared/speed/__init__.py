"""What is timed, each candidate in a process of its own, and how they take turns.

`torch`, `mxnet` and `jax` are the book's way: the loop of Dive into Deep Learning 14.11, plainly.
Each has a `Trainer(config, bilinear=False)` with `step(images, labels)`, `logits(images)`, which
ends when they are computed, and `predict(images)`; in float32, from images (N, 3, H, W), normalised
on the host, with sides that are multiples of 32, and labels (N, H, W) without void. With `bilinear`
its head is torchvision's kind: the scores at 1/32 are interpolated, where the book learns a
transposed convolution.

`compiled(trainer)` is our trainer by the framework's other compiler: PyTorch's `torch.compile`, and
in JAX each program compiled ahead of its call. MXNet has none: ours is hybridized.

`Convolutions(config)` is what our network cannot do without: its convolutions and its last product
alone, chained as in `chain`, in the fastest form that the framework has, in the config's dtype,
batch size and crop. `forward()` returns what no convolution takes; `gradients()` returns by name
those by the weights and by `POOLED`, and computes those by all other inputs but the images on the
way. Both end when all is computed.

`gradient_sum(config, group)` gives a function that sums as many numbers as our network has
gradients over a group of processes, as the backend's step does, and ends when all have the sum.

`product(side, dtype, device)` gives a function that multiplies two square matrices to the end, and
`gpu(device)` tells a GPU's name and how much memory was held there.
"""
