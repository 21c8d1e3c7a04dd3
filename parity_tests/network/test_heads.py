"""The heads FCN-32s, FCN-16s and FCN-8s, against the definition written out in NumPy."""

import numpy as np
import pytest

from common.config import Architecture, Dtype, Head, UpsampleInit
from common.network.initial import initial_weights
from common.network.tensors import head_of, layer_names, layer_sources, tensors
from common.parity.compare import relative_l2
from common.protocol import Array, Arrays
from parity_tests.conftest import V1, V2, WIDTH, trace, weights

MORE = {
    Head.fcn32s: [],
    Head.fcn16s: ["up_layer4.weight", "score_layer3.weight", "score_layer3.bias"],
    Head.fcn8s: ["up_layer3.weight", "score_layer2.weight", "score_layer2.bias"],
}
"""The tensors that each head has and the one before has not."""


@pytest.mark.parametrize("architecture", Architecture)
def test_names_shapes_and_order(architecture: Architecture) -> None:
    names: list[str] = []
    for head in Head:
        names += MORE[head]
        specs = tensors(architecture, 5, WIDTH, head)
        assert [n for n in specs if n.startswith(("up_", "score_"))] == names
        assert [*specs][-2:] == ["transpose_conv.weight", "transpose_conv.bias"]
        assert specs["transpose_conv.weight"].shape == (5, 5, 2 * head.stride, 2 * head.stride)
        assert head_of(specs) == head
        fused = {Head.fcn32s: (), Head.fcn16s: ("fuse16",), Head.fcn8s: ("fuse16", "fuse8")}[head]
        layers = layer_names(architecture, head)
        assert layers[layers.index("final_conv") :] == ("final_conv", *fused, "logits")
    assert specs["up_layer4.weight"].shape == specs["up_layer3.weight"].shape == (5, 5, 4, 4)
    assert specs["score_layer3.weight"].shape == (5, 4 * WIDTH, 1, 1)
    assert specs["score_layer2.weight"].shape == (5, 2 * WIDTH, 1, 1)
    assert specs["score_layer2.bias"].shape == (5,)


def test_what_each_layer_is_made_of() -> None:
    sources = layer_sources("resnet34", Head.fcn8s)
    assert sources["stem"] == ("image",)
    assert sources["fuse16"] == ("final_conv", "layer3.5")
    assert sources["fuse8"] == ("fuse16", "layer2.3")
    assert sources["logits"] == ("fuse8",)
    assert layer_sources("resnet18_v2")["final_conv"] == ("norm",)


def convolve(x: Array, arrays: Arrays, name: str) -> Array:
    """A 1x1 convolution."""
    weight, bias = arrays[f"{name}.weight"][:, :, 0, 0], arrays[f"{name}.bias"]
    return np.asarray(np.einsum("oc,nchw->nohw", weight, x) + bias[:, None, None])


def upsample(x: Array, arrays: Arrays, name: str) -> Array:
    """A transposed convolution: each pixel adds its kernel, and half a stride is cropped."""
    weight = arrays[f"{name}.weight"]
    n, c, h, w = x.shape
    k = weight.shape[-1]
    s = k // 2
    full = np.zeros((n, c, s * (h + 1), s * (w + 1)))
    for row in range(h):
        for column in range(w):
            window = full[:, :, s * row : s * row + k, s * column : s * column + k]
            window += np.einsum("nc,coij->noij", x[:, :, row, column], weight)
    bias = arrays.get(f"{name}.bias", np.zeros(c))
    return full[:, :, s // 2 : -s // 2, s // 2 : -s // 2] + bias[:, None, None]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": V2, "head": Head.fcn8s, "head_rate": 0.1},
        pytest.param({"head": Head.fcn16s}, marks=pytest.mark.full),
    ],
)
def test_scores_are_fused_by_the_definition(
    backend: str, settings: dict[str, object], mode: str
) -> None:
    """In v2 a skip takes the sum of a stage's last block, neither normalised nor rectified."""
    architecture, head = settings.get("architecture", V1), settings["head"]
    assert isinstance(architecture, Architecture)
    assert isinstance(head, Head)
    arrays = weights(architecture, head=head)
    found = trace(backend, Dtype.float64, **settings)
    seen = {k.partition("/")[2]: a for k, a in found.items() if k.startswith(f"{mode}/")}
    x = upsample(seen["final_conv"], arrays, "up_layer4")
    x += convolve(seen["layer3.1"], arrays, "score_layer3")
    assert relative_l2(seen["fuse16"], x) <= 1e-13
    if head == Head.fcn8s:
        x = upsample(x, arrays, "up_layer3") + convolve(seen["layer2.1"], arrays, "score_layer2")
        assert relative_l2(seen["fuse8"], x) <= 1e-13
    x = upsample(x, arrays, "transpose_conv")
    assert relative_l2(seen["logits"], x) <= 1e-13


def test_initial_scores_add_nothing_and_kernels_are_bilinear() -> None:
    start = initial_weights("resnet18", 5, seed=0, head=Head.fcn8s)
    for name in ("score_layer3", "score_layer2"):
        assert not start[f"{name}.weight"].any()
        assert not start[f"{name}.bias"].any()
    x = np.ones((1, 5, 4, 4))
    for name in ("up_layer4", "up_layer3", "transpose_conv"):
        y = upsample(x, dict(start), name)
        s = y.shape[-1] // 4
        assert np.allclose(y[:, :, s // 2 : -s // 2, s // 2 : -s // 2], 1)  # ones between centres
    again = initial_weights("resnet18", 5, seed=0)
    assert all(np.array_equal(again[k], start[k]) for k in again if k != "transpose_conv.weight")
    random = initial_weights("resnet18", 5, 0, UpsampleInit.xavier, head=Head.fcn8s)
    assert np.count_nonzero(random["up_layer3.weight"]) == random["up_layer3.weight"].size
