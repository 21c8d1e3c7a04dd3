"""A record by a program of one's own: two dense layers in NumPy, nothing of this repository.

python docs/port/numpy_record.py reference.safetensors numpy.safetensors

The reference is a record of the same network, `Sequential(Linear, Tanh, Linear)` in PyTorch, whose
loss is the mean of the squares; its weights and inputs are taken.
"""

import json
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

reference = load_file(sys.argv[1])
x = reference["input"]
w, b, v, c = (reference[f"weight/{n}"] for n in ("0.weight", "0.bias", "2.weight", "2.bias"))

hidden = x @ w.T + b
active = np.tanh(hidden)
y = active @ v.T + c
d = 2 * y / y.size
e = (d @ v) * (1 - active**2)

values = {"0:in": x, "0:out": hidden, "2:in": active, "2:out": y, "output": y}
arrays = {f"{mode}/{name}": array for mode in ("eval", "train") for name, array in values.items()}
arrays |= {"input": x, "loss": np.array([np.mean(y**2)])}
arrays |= {"grad/0.weight": e.T @ x, "grad/0.bias": e.sum(0)}
arrays |= {"grad/2.weight": d.T @ active, "grad/2.bias": d.sum(0)}
arrays |= {"weight/0.weight": w, "weight/0.bias": b, "weight/2.weight": v, "weight/2.bias": c}

layers = {
    path: {"kind": "Dense", "tensors": {own: f"{path}.{own}" for own in ("weight", "bias")}}
    for path in ("0", "2")
}
tensors = {
    f"{path}.{own}": {"shape": array.shape, "axes": axes, "trained": True}
    for path, pair in {"0": (w, b), "2": (v, c)}.items()
    for (own, axes), array in zip((("weight", "o i"), ("bias", "o")), pair, strict=True)
}
order = [name for name in arrays if name.startswith(("eval/", "train/"))]
metadata = {"format": "rosetta-trace", "schema": "2", "backend": "numpy", "dtype": "float64"}
metadata["record"] = json.dumps({"order": order, "layers": layers, "tensors": tensors})
save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, sys.argv[2], metadata)
