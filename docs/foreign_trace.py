"""How to write a trace from a model that is not ours: torchvision's, with the book's head.

    python docs/foreign_trace.py W.safetensors B.safetensors OUT.safetensors

W holds canonical weights, B `image` (steps, N, 3, H, W) with H and W multiples of 32 and `label`
(steps, N, H, W). OUT holds the first step in float64, for `scripts.compare` to hold against ours.
Nothing of this repository is imported: the file's names and layouts are all there is to agree on.
"""

import sys
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn, tensor
from torchvision.models import resnet18

weights, batches = (load_file(path) for path in sys.argv[1:3])
image, label = batches["image"][0].double(), batches["label"][0].long()

# Each of torchvision's names is ours after "backbone."; eps is float32(1e-5), in any dtype.
resnet = resnet18(norm_layer=lambda channels: nn.BatchNorm2d(channels, tensor(1e-5).item()))
backbone = nn.Sequential(OrderedDict([*resnet.named_children()][:-2]))  # no pooling, no classifier
n = len(weights["final_conv.bias"])
head = {"final_conv": nn.Conv2d(512, n, 1), "transpose_conv": nn.ConvTranspose2d(n, n, 64, 32, 16)}
net = nn.Sequential(OrderedDict(backbone=backbone, **head)).double()
net.load_state_dict(net.state_dict() | weights)  # `num_batches_tracked` stays

trace = {}
layers = {"backbone.maxpool": "stem", "final_conv": "final_conv", "transpose_conv": "logits"}
layers |= {f"backbone.layer{s}.{k}": f"layer{s}.{k}" for s in (1, 2, 3, 4) for k in (0, 1)}
for path, layer in layers.items():
    net.get_submodule(path).register_forward_hook(
        lambda m, _, y, to=layer: trace.update({f"{'train' if m.training else 'eval'}/{to}": y})
    )
trace["eval/mask"] = net.eval()(image).argmax(1).byte()  # at W: a pass in train moves buffers
loss = nn.functional.cross_entropy(net.train()(image), label, ignore_index=255)  # 255 is void
loss.backward()
trace |= {"loss": loss[None]} | {f"grad/{name}": p.grad for name, p in net.named_parameters()}

info = {"format": "rosetta-trace", "schema": "1", "backend": "torchvision", "dtype": "float64"}
hashes = [sha256(Path(path).read_bytes()).hexdigest() for path in sys.argv[1:3]]
info |= {"groups": "eval,train,loss,grad", "weights_sha256": hashes[0], "batches_sha256": hashes[1]}
save_file({name: array.detach() for name, array in trace.items()}, sys.argv[3], info)
