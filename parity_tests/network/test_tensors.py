"""What the backends take their shapes, names and rates from, against PyTorch and torchvision."""

import itertools
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.config import Architecture, Config, Decay, Freeze, Head, Schedule, float32
from common.errors import InputError
from common.network.flops import forward_flops, training_flops
from common.network.grid import check_batch, pad_images
from common.network.initial import generic_weights, initial_weights
from common.network.schedule import learning_rates
from common.network.tensors import (
    activation_names,
    config_tensors,
    decayed_tensors,
    frozen_tensors,
    relu_names,
    tensors,
    watched_modules,
)
from parity_tests.network.witnesses import import_torchvision

V1, V1_34, V2 = Architecture.resnet18, Architecture.resnet34, Architecture.resnet18_v2


def torchvision_backbone(architecture: Architecture) -> Any:
    """Without weights: on the meta device, which computes shapes alone."""
    with torch.device("meta"):
        model = getattr(import_torchvision().models, architecture.value)()
    del model.fc
    return model


@pytest.mark.parametrize("architecture", [V1, V1_34])
def test_backbones_have_torchvision_s_tensors_and_strides(architecture: Architecture) -> None:
    model = torchvision_backbone(architecture)
    specs = tensors(architecture, 21)
    ours = {
        name.removeprefix("backbone."): spec.shape
        for name, spec in specs.items()
        if name.startswith("backbone.")
    }
    theirs = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert list(ours.items()) == list(theirs.items())
    trained = [name for name, _ in model.named_parameters()]
    assert trained == [n for n in ours if specs[f"backbone.{n}"].trainable]
    strides = {}

    def seen(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            strides[f"backbone.{name}"] = 64 // output.shape[-2], 96 // output.shape[-1]

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(seen(name))
    features = torch.nn.Sequential(*list(model.children())[:-1])
    features(torch.empty(1, 3, 64, 96, device="meta"))
    for name, spec in specs.items():
        if name.startswith("backbone."):
            assert (spec.stride, spec.stride) == strides[name.rpartition(".")[0]], name


@pytest.mark.parametrize("architecture", Architecture)
def test_a_resnet_has_as_many_layers_as_its_name_says(architecture: Architecture) -> None:
    """He et al. count the convolutions but those of shortcuts, and the classifier."""
    kernels = [n for n, s in tensors(architecture, 5).items() if len(s.shape) == 4 and "conv" in n]
    backbone = [name for name in kernels if name.startswith("backbone.")]
    assert len(backbone) + 1 == int(re.findall(r"\d+", architecture)[0])


def test_roles_and_places_of_tensors() -> None:
    specs = tensors(V2, 5, 8, Head.fcn8s)
    assert {name: spec.role for name, spec in specs.items() if ".layer3.0." in name} == {
        "backbone.layer3.0.bn1.weight": "gamma",
        "backbone.layer3.0.bn1.bias": "beta",
        "backbone.layer3.0.bn1.running_mean": "running_mean",
        "backbone.layer3.0.bn1.running_var": "running_var",
        "backbone.layer3.0.conv1.weight": "weight",
        "backbone.layer3.0.bn2.weight": "gamma",
        "backbone.layer3.0.bn2.bias": "beta",
        "backbone.layer3.0.bn2.running_mean": "running_mean",
        "backbone.layer3.0.bn2.running_var": "running_var",
        "backbone.layer3.0.conv2.weight": "weight",
        "backbone.layer3.0.downsample.weight": "weight",
    }
    head = {n: (s.shape, s.role, s.stride, s.transposed, s.layer) for n, s in specs.items()}
    assert {n: told for n, told in head.items() if not n.startswith("backbone.")} == {
        "final_conv.weight": ((5, 64, 1, 1), "weight", 32, False, "final_conv"),
        "final_conv.bias": ((5,), "bias", 32, False, "final_conv"),
        "up_layer4.weight": ((5, 5, 4, 4), "weight", 16, True, "fuse16"),
        "score_layer3.weight": ((5, 32, 1, 1), "weight", 16, False, "fuse16"),
        "score_layer3.bias": ((5,), "bias", 16, False, "fuse16"),
        "up_layer3.weight": ((5, 5, 4, 4), "weight", 8, True, "fuse8"),
        "score_layer2.weight": ((5, 16, 1, 1), "weight", 8, False, "fuse8"),
        "score_layer2.bias": ((5,), "bias", 8, False, "fuse8"),
        "transpose_conv.bias": ((5,), "bias", 1, False, "logits"),
        "transpose_conv.weight": ((5, 5, 16, 16), "weight", 1, True, "logits"),
    }


def test_activations_and_where_they_are_seen() -> None:
    blocks = [f"layer{stage}.{k}" for stage in (1, 2, 3, 4) for k in (0, 1)]
    inner = [name for block in blocks for name in (f"{block}.bn1", block)]
    assert activation_names(V1) == ("stem.bn1", "stem", *inner, "final_conv", "logits")
    assert relu_names(V1) == ("stem.bn1", *inner)
    both = [name for b in blocks for name in (f"{b}.bn1", f"{b}.bn2", b)]
    fused = ("final_conv", "fuse16", "fuse8", "logits")
    assert activation_names(V2, Head.fcn8s) == ("stem.bn1", "stem", *both, "norm", *fused)
    norms = [name for b in blocks for name in (f"{b}.bn1", f"{b}.bn2")]
    assert relu_names(V2) == ("stem.bn1", *norms, "norm")
    seen = watched_modules(V2, Head.fcn8s)
    assert {name: at for name, at in seen.items() if not name.startswith("layer")} == {
        "stem.bn1": ("backbone.bn1", "out"),
        "stem": ("backbone.layer1.0", "in"),
        "norm": ("final_conv", "in"),
        "final_conv": ("final_conv", "out"),
        "fuse16": ("up_layer3", "in"),
        "fuse8": ("transpose_conv", "in"),
        "logits": ("transpose_conv", "out"),
    }
    assert seen["layer2.0.bn2"] == ("backbone.layer2.0.bn2", "out")
    assert watched_modules(V1, Head.fcn16s)["fuse16"] == ("transpose_conv", "in")


@pytest.mark.parametrize("decay", Decay)
@pytest.mark.parametrize("freeze", Freeze)
def test_what_is_trained_and_what_decays(freeze: Freeze, decay: Decay) -> None:
    config = Config(num_classes=5, width=8, freeze=freeze, decay=decay, architecture=V2)
    specs = config_tensors(config)
    head = {"final_conv.weight", "final_conv.bias", "transpose_conv.weight", "transpose_conv.bias"}
    kernels = {name for name, spec in specs.items() if len(spec.shape) == 4}
    norms = {name for name in specs if name.endswith((".weight", ".bias"))} - kernels - head
    moving = {Freeze.none: kernels | norms | head, Freeze.backbone: head}
    trained = moving.get(freeze, kernels | head)
    assert frozen_tensors(config) == (kernels | norms | head) - trained
    assert decayed_tensors(config) == (trained & kernels if decay == Decay.kernels else trained)


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (33, 100)])
@pytest.mark.parametrize("architecture", [V1, V1_34])
def test_flops_are_those_that_torch_counts(
    architecture: Architecture, size: tuple[int, int]
) -> None:
    model, (height, width) = torchvision_backbone(architecture), size
    padded = (math.ceil(side / 32) * 32 for side in size)
    with FlopCounterMode(display=False) as counter:
        torch.nn.Sequential(*list(model.children())[:-1])(torch.empty(1, 3, *padded, device="meta"))
    flops = forward_flops(architecture, 21, height, width)
    backbone = {name: count for name, count in flops.items() if name.startswith("backbone.")}
    assert sum(backbone.values()) == counter.get_total_flops()
    training = training_flops(architecture, 21, height, width)
    assert training.pop("backbone.conv1.weight") == 2 * flops.pop("backbone.conv1.weight")
    assert training == {name: 3 * count for name, count in flops.items()}


@pytest.mark.parametrize("size", [(32, 64), (40, 64), (64, 40), (65, 33)])
def test_pictures_are_padded_at_the_bottom_and_right(size: tuple[int, int]) -> None:
    height, width = size
    pictures = np.random.default_rng(0).integers(1, 256, (2, height, width, 3)).astype(np.uint8)
    bottom, right = math.ceil(height / 32) * 32 - height, math.ceil(width / 32) * 32 - width
    normal = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))
    expected = torch.nn.functional.pad(normal, (0, right, 0, bottom)).numpy()
    assert np.array_equal(pad_images(normal.numpy()), expected)
    assert np.array_equal(pad_images(pictures), expected.transpose(0, 2, 3, 1))


def test_a_batch_with_one_value_a_channel_is_told_by_its_size() -> None:
    config = Config()
    for refused in ((1, 32, 32), (1, 1, 32), (1, 32, 7)):
        with pytest.raises(InputError, match=rf"{refused[1]}x{refused[2]} pixels"):
            check_batch(config, *refused)
        check_batch(config.replace(freeze=Freeze.batch_norm), *refused)
    for fine in ((2, 32, 32), (1, 33, 32), (1, 32, 33)):
        check_batch(config, *fine)


@pytest.mark.parametrize("schedule", Schedule)
def test_rates_are_those_of_torch_s_schedulers(schedule: Schedule) -> None:
    """Polynomial decay times a linear warm-up over the first three of ten steps."""
    config = Config(schedule=schedule, learning_rate=0.1, warmup=0.3, head_rate=10.0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    rate = torch.optim.lr_scheduler
    linear = rate.LinearLR(optimizer, start_factor=1 / 3, total_iters=2)
    followed = [linear]
    if schedule == Schedule.poly:
        power = config.poly_power
        followed.append(rate.PolynomialLR(optimizer, total_iters=10, power=power))
    for step in range(10):
        expected = optimizer.param_groups[0]["lr"]
        found = learning_rates(config, step, 10)
        assert found == pytest.approx((expected, 10 * expected), rel=1e-6)
        assert found == tuple(map(float32, found))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimizer comes between
            for scheduler in followed:
                scheduler.step()


SMALL = {"architecture": V1, "num_classes": 4, "width": 16, "head": Head.fcn8s}


def torch_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out as PyTorch's initialisers have them, of a kernel (out, in, k, k)."""
    return torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_initial_spreads_are_those_of_torch_s_initialisers() -> None:
    weights = initial_weights(seed=0, **SMALL)
    for name, spec in tensors(**SMALL).items():
        array = weights[name].astype(np.float64)
        noise = 4 / math.sqrt(array.size)
        fan_in, fan_out = torch_fans(spec.shape) if len(spec.shape) == 4 else (0, 0)
        if name.startswith("backbone.") and array.ndim == 4:  # kaiming_normal_, mode="fan_out"
            assert array.std() == pytest.approx(math.sqrt(2 / fan_out), rel=noise), name
            assert abs(array.mean()) < noise * array.std()
            assert (array**4).mean() == pytest.approx(3 * array.var() ** 2, rel=1.5 * noise + 0.05)
        elif name == "final_conv.weight":  # xavier_uniform_
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.97 * bound < np.abs(array).max() <= bound * (1 + 1e-6)
            assert array.min() < -0.9 * bound and array.max() > 0.9 * bound
        elif name.endswith("running_var") or spec.role == "gamma":
            assert (array == 1).all()
        elif not spec.transposed:  # whose bilinear kernels have a test of their own
            assert not array.any(), name


@pytest.mark.parametrize("architecture", [V1, V2])
def test_generic_values_are_on_the_scales_that_keep_activations_near_1(
    architecture: Architecture,
) -> None:
    settings = SMALL | {"architecture": architecture}
    weights = generic_weights(seed=0, **settings)
    by_role: dict[str, list[Any]] = {}
    for name, spec in tensors(**settings).items():
        array = weights[name]
        assert array.shape == spec.shape
        if spec.role == "weight":
            taps = 4 * spec.shape[0] if spec.transposed else torch_fans(spec.shape)[0]
            array = array / math.sqrt(2 / taps)
        by_role.setdefault(spec.role, []).append(array.ravel())
    spread = {"weight": 1, "bias": 0.3, "beta": 0.3, "running_mean": 0.3}
    for role, arrays in by_role.items():
        values = np.concatenate(arrays)
        if role in spread:
            assert values.std() == pytest.approx(spread[role], rel=0.2 if role == "bias" else 0.06)
            assert abs(values.mean()) < 0.4 * spread[role]
            for array in arrays:
                assert array.std() == pytest.approx(spread[role], rel=3 / math.sqrt(array.size))
        else:  # evenly between a half and one and a half
            assert 0.5 <= values.min() < 0.52 and 1.48 < values.max() < 1.5
            assert np.mean(values < 1) == pytest.approx(0.5, abs=0.06)
    for one, other in itertools.pairwise(a for arrays in by_role.values() for a in arrays):
        assert one.size != other.size or not np.array_equal(one, other)
    again = generic_weights(seed=1, **settings)
    assert not any(np.array_equal(weights[name], again[name]) for name in weights)
