"""Names of other programs' files: some of each kind, as those programs write them, and all back.

`test_ecosystems.py` has those programs open such files; here the names are seen without them.
"""

from pathlib import Path

import numpy as np
import pytest

from common.config import Architecture, Head
from common.errors import InputError
from common.network.initial import generic_weights
from common.network.tensors import in_head, tensors
from common.weights.namings import ANY_HEAD, NAMINGS, fixed_in, names_in, recognise, rename
from common.weights.wrapping import unwrapped

V1, V1_34, V2 = Architecture.resnet18, Architecture.resnet34, Architecture.resnet18_v2
SPOKEN_OF = (
    *("backbone.bn0.running_var", "backbone.conv1.weight", "backbone.bn1.weight"),
    *("backbone.layer1.0.conv1.weight", "backbone.layer1.0.bn2.bias"),
    *("backbone.layer2.0.conv2.weight", "backbone.layer2.0.bn1.running_mean"),
    *("backbone.layer2.0.downsample.0.weight", "backbone.layer2.0.downsample.1.running_var"),
    *("backbone.layer2.0.downsample.weight", "backbone.layer4.1.conv1.weight"),
    *("backbone.layer4.1.bn2.weight", "backbone.bn2.bias"),
    *("final_conv.weight", "final_conv.bias", "transpose_conv.weight", "transpose_conv.bias"),
)
NAMES = {
    (V1, "torchvision"): (
        *("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn2.bias"),
        *("layer2.0.conv2.weight", "layer2.0.bn1.running_mean", "layer2.0.downsample.0.weight"),
        *("layer2.0.downsample.1.running_var", "layer4.1.conv1.weight", "layer4.1.bn2.weight"),
    ),
    (V1, "book"): (
        *("0.weight", "1.weight", "4.0.conv1.weight", "4.0.bn2.bias", "5.0.conv2.weight"),
        *("5.0.bn1.running_mean", "5.0.downsample.0.weight", "5.0.downsample.1.running_var"),
        *("7.1.conv1.weight", "7.1.bn2.weight", "final_conv.weight", "final_conv.bias"),
        *("transpose_conv.weight", "transpose_conv.bias"),
    ),
    (V1, "gluon"): (
        *("features.0.weight", "features.1.gamma", "features.4.0.body.0.weight"),
        *("features.4.0.body.4.beta", "features.5.0.body.3.weight"),
        *("features.5.0.body.1.running_mean", "features.5.0.downsample.0.weight"),
        *("features.5.0.downsample.1.running_var", "features.7.1.body.0.weight"),
        "features.7.1.body.4.gamma",
    ),
    (V1, "gluon by prefix"): (
        *("resnet_conv0_weight", "resnet_batchnorm0_gamma", "resnet_stage1_conv0_weight"),
        *("resnet_stage1_batchnorm1_beta", "resnet_stage2_conv1_weight"),
        *("resnet_stage2_batchnorm0_running_mean", "resnet_stage2_conv2_weight"),
        *("resnet_stage2_batchnorm2_running_var", "resnet_stage4_conv3_weight"),
        *("resnet_stage4_batchnorm4_gamma", "final_conv_weight", "final_conv_bias"),
        *("transpose_conv_weight", "transpose_conv_bias"),
    ),
    (V1, "gluoncv"): (
        *("conv1.weight", "bn1.gamma", "layer1.0.conv1.weight", "layer1.0.bn2.beta"),
        *("layer2.0.conv2.weight", "layer2.0.bn1.running_mean", "layer2.0.downsample.0.weight"),
        *("layer2.0.downsample.1.running_var", "layer4.1.conv1.weight", "layer4.1.bn2.gamma"),
    ),
    (V1, "gluoncv by prefix"): (
        *("resnet_conv0_weight", "resnet_batchnorm0_gamma", "resnet_layers1_conv0_weight"),
        *("resnet_layers1_batchnorm1_beta", "resnet_layers2_conv1_weight"),
        *("resnet_layers2_batchnorm0_running_mean", "resnet_down2_conv0_weight"),
        *("resnet_down2_batchnorm0_running_var", "resnet_layers4_conv2_weight"),
        "resnet_layers4_batchnorm3_gamma",
    ),
    (V1, "book-mxnet"): (
        *("0.weight", "1.gamma", "4.0.body.0.weight", "4.0.body.4.beta", "5.0.body.3.weight"),
        *("5.0.body.1.running_mean", "5.0.downsample.0.weight", "5.0.downsample.1.running_var"),
        *("7.1.body.0.weight", "7.1.body.4.gamma", "8.weight", "8.bias", "9.weight", "9.bias"),
    ),
    (V1, "flax"): (
        *("backbone.conv1.kernel", "backbone.bn1.scale", "backbone.layer1_0.conv1.kernel"),
        *("backbone.layer1_0.bn2.bias", "backbone.layer2_0.conv2.kernel"),
        *("backbone.layer2_0.bn1.mean", "backbone.layer2_0.downsample_0.kernel"),
        *("backbone.layer2_0.downsample_1.var", "backbone.layer4_1.conv1.kernel"),
        *("backbone.layer4_1.bn2.scale", "final_conv.kernel", "final_conv.bias"),
        *("transpose_conv.weight", "transpose_conv.bias"),
    ),
    (V2, "gluon"): (
        *("features.0.running_var", "features.1.weight", "features.2.gamma"),
        *("features.5.0.conv1.weight", "features.5.0.bn2.beta", "features.6.0.conv2.weight"),
        *("features.6.0.bn1.running_mean", "features.6.0.downsample.weight"),
        *("features.8.1.conv1.weight", "features.8.1.bn2.gamma", "features.9.beta"),
    ),
    (V2, "gluon by prefix"): (
        *("resnet_batchnorm0_running_var", "resnet_conv0_weight", "resnet_batchnorm1_gamma"),
        *("resnet_stage1_conv0_weight", "resnet_stage1_batchnorm1_beta"),
        *("resnet_stage2_conv1_weight", "resnet_stage2_batchnorm0_running_mean"),
        *("resnet_stage2_conv2_weight", "resnet_stage4_conv3_weight"),
        *("resnet_stage4_batchnorm3_gamma", "resnet_batchnorm2_beta", "final_conv_weight"),
        *("final_conv_bias", "transpose_conv_weight", "transpose_conv_bias"),
    ),
    (V2, "book-mxnet"): (
        *("0.running_var", "1.weight", "2.gamma", "5.0.conv1.weight", "5.0.bn2.beta"),
        *("6.0.conv2.weight", "6.0.bn1.running_mean", "6.0.downsample.weight"),
        *("8.1.conv1.weight", "8.1.bn2.gamma", "9.beta"),
        *("11.weight", "11.bias", "12.weight", "12.bias"),
    ),
    (V2, "flax"): (
        *("backbone.bn0.var", "backbone.conv1.kernel", "backbone.bn1.scale"),
        *("backbone.layer1_0.conv1.kernel", "backbone.layer1_0.bn2.bias"),
        *("backbone.layer2_0.conv2.kernel", "backbone.layer2_0.bn1.mean"),
        *("backbone.layer2_0.downsample.kernel", "backbone.layer4_1.conv1.kernel"),
        *("backbone.layer4_1.bn2.scale", "backbone.bn2.bias", "final_conv.kernel"),
        *("final_conv.bias", "transpose_conv.weight", "transpose_conv.bias"),
    ),
}
KNOWN = [(a, naming) for a in (V1, V1_34, V2) for naming in NAMINGS[a]]


@pytest.mark.parametrize(("architecture", "naming"), NAMES)
def test_some_names_of_each_naming(architecture: Architecture, naming: str) -> None:
    found = names_in(naming, architecture)
    assert tuple(found[name] for name in SPOKEN_OF if name in found) == NAMES[architecture, naming]
    has_head = "final_conv.bias" in found
    assert len(found) == len([n for n in tensors(architecture, 5) if has_head or not in_head(n)])


def test_every_naming_is_spoken_of() -> None:
    assert {key for key in KNOWN if key[1] != "canonical" and key[0] != V1_34} == set(NAMES)
    assert NAMINGS[V1_34] == NAMINGS[V1]
    for architecture in (V1, V2):
        names = names_in("canonical", architecture)
        assert names == dict.fromkeys(tensors(architecture, 5), None) | {n: n for n in names}


@pytest.mark.parametrize(("architecture", "naming"), KNOWN)
def test_what_is_renamed_is_recognised(architecture: Architecture, naming: str) -> None:
    """Values too: Flax's kernels have their axes in another order, (kh, kw, in, out)."""
    arrays = generic_weights(architecture, 5, seed=0, width=8)
    theirs = rename(arrays, naming, architecture)
    names = names_in(naming, architecture)
    for name, other in names.items():
        if naming == "flax" and other.endswith("kernel") and arrays[name].ndim == 4:
            assert theirs[other].shape == tuple(np.array(arrays[name].shape)[[2, 3, 1, 0]])
            assert theirs[other][0, -1, 2, 1] == arrays[name][1, 2, 0, -1]
        else:
            assert np.array_equal(theirs[other], arrays[name])
    fixed = fixed_in(naming, architecture)
    assert set(theirs) == {*names.values(), *fixed}
    for name, value in fixed.items():
        assert np.array_equal(theirs[name], np.full(3, value))
        assert value == (1 if name.endswith("gamma") else 0)
    assert len(fixed) == (2 if architecture == V2 and naming not in ("canonical", "flax") else 0)
    found = recognise(Path("W"), theirs)
    assert (found.architecture, found.naming) == (architecture, naming)
    assert found.has_head == ("final_conv.bias" in names)
    assert found.ignored == tuple(fixed)
    assert found.left_out == {}
    assert set(found.arrays) == set(names)
    assert all(np.array_equal(array, arrays[name]) for name, array in found.arrays.items())


def test_who_has_every_head() -> None:
    for naming in NAMINGS[V1]:
        whole = len(names_in(naming, V1, Head.fcn8s)) == len(tensors(V1, 5, head=Head.fcn8s))
        assert whole == (naming in ANY_HEAD)


@pytest.mark.parametrize("head", [Head.fcn16s, Head.fcn8s])
@pytest.mark.parametrize("naming", ["canonical", "flax"])
def test_heads_with_skips_come_back(naming: str, head: Head) -> None:
    arrays = generic_weights(V1, 5, seed=0, width=8, head=head)
    theirs = rename(arrays, naming, V1)
    if naming == "flax":
        assert theirs["score_layer3.kernel"].shape == (1, 1, 32, 5)
        assert np.array_equal(theirs["up_layer4.weight"], arrays["up_layer4.weight"])
    found = recognise(Path("W"), theirs)
    assert found.naming == naming
    assert all(np.array_equal(found.arrays[name], array) for name, array in arrays.items())
    assert set(found.arrays) == set(arrays)


CLASSIFIERS = {
    "torchvision": ("fc.weight", "fc.bias"),
    "gluon": ("output.weight", "output.bias"),
    "gluon by prefix": ("resnet_dense0_weight", "resnet_dense0_bias"),
    "gluoncv": ("fc.weight", "fc.bias"),
    "gluoncv by prefix": ("resnet_dense0_weight", "resnet_dense0_bias"),
}


@pytest.mark.parametrize("naming", CLASSIFIERS)
def test_the_classifier_is_left_out(naming: str) -> None:
    arrays = generic_weights(V1, 5, seed=0, width=8)
    theirs = rename(arrays, naming, V1)
    classifier = dict(zip(CLASSIFIERS[naming], (np.zeros((7, 64)), np.zeros(7)), strict=True))
    found = recognise(Path("W"), theirs | classifier)
    assert found.left_out == {name: array.shape for name, array in classifier.items()}
    assert set(found.arrays) == set(names_in(naming, V1))


def test_what_saving_adds_to_names_is_taken_off() -> None:
    arrays = generic_weights(V1, 5, seed=0, width=8)
    book, flax, gluon = (rename(arrays, n, V1) for n in ("book", "flax", "gluon by prefix"))
    parallel = {f"module.{name}": array for name, array in book.items()}
    bare, notes = unwrapped(Path("W"), parallel | {"0.weight": book["0.weight"]})
    assert recognise(Path("W"), bare).naming == "book"
    assert notes == ["unwrapped: module", "left out: 0"]  # of one alone it is a name
    variables = {
        f"{name.replace('layer1_0', 'layer1.layers.0')}.value": array
        for name, array in flax.items()
    }
    assert recognise(Path("W"), variables).naming == "flax"
    counted = {
        name.replace("resnet_", "resnetv17_")
        .replace("final_conv", "fcn0_conv3")
        .replace("transpose_conv", "conv11"): array
        for name, array in gluon.items()
    }
    with pytest.raises(InputError, match="gluon by prefix has no strange"):
        recognise(Path("W"), counted | {"strange": np.zeros(2)})
    found = recognise(Path("W"), counted)
    assert found.naming == "gluon by prefix"
    for name in ("final_conv.weight", "transpose_conv.bias", "backbone.layer3.1.bn2.running_var"):
        assert np.array_equal(found.arrays[name], arrays[name])
    batches = {"1.num_batches_tracked": np.array(7), "4.0.bn1.num_batches_tracked": np.array(7)}
    assert recognise(Path("W"), book | batches).ignored == tuple(batches)


def test_beta_at_the_input_of_v2_must_be_0() -> None:
    theirs = rename(generic_weights(V2, 5, seed=0, width=8), "gluon", V2)
    theirs["features.0.gamma"] = np.full(3, 9.0)  # MXNet takes it for 1
    assert recognise(Path("W"), theirs).ignored == ("features.0.gamma", "features.0.beta")
    theirs["features.0.beta"] = np.array([0, 0, 1e-9])
    with pytest.raises(InputError, match=r"W: features\.0\.beta is not 0"):
        recognise(Path("W"), theirs)


def test_tensors_of_no_place_are_named_and_counted() -> None:
    arrays = generic_weights(V1, 5, seed=0, width=8)
    with pytest.raises(InputError, match=r"^W: resnet18 has no extra \(3,\)$"):
        recognise(Path("W"), arrays | {"extra": np.zeros(3)})
    book = rename(arrays, "book", V1) | {"a": np.zeros(1), "b": np.zeros(2)}
    with pytest.raises(InputError, match=r"with the names of book has no a \(1,\) \(and 1 more\)$"):
        recognise(Path("W"), book)
    strangers = {f"x{k}": np.zeros(k) for k in range(12)}
    with pytest.raises(InputError, match=r"^W: is none of resnet18, resnet34, resnet18_v2; the n"):
        recognise(Path("W"), arrays | strangers)
    with pytest.raises(InputError, match=r"^W: its 12 tensors have .*: x0, x1, x2, \.\.\.$"):
        recognise(Path("W"), strangers)
    with pytest.raises(InputError, match=r"its 0 tensors have .*: none at all$"):
        recognise(Path("W"), {})
    half = dict(list(rename(arrays, "torchvision", V1).items())[:52])
    assert recognise(Path("W"), half).naming == "torchvision"
