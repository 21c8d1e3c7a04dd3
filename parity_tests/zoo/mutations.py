"""Mistakes of ports put into networks that nobody here wrote, one at a time.

The port is the original with one mistake, both in PyTorch: what equal ports of two frameworks are
off by, the pairs tell.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch import record
from common.parity.compare_records import compare_records
from common.parity.records import Record, read_record, split_value
from common.parity.report import Report
from parity_tests.network.witnesses import import_torchvision
from parity_tests.zoo import huggingface
from parity_tests.zoo.pairs import images, torchvision

Change = Callable[[Any], None]
Forward = Callable[..., Any]


def _forward(module: nn.Module, change: Callable[[Any, Forward], Forward]) -> None:
    """Gives one module another forward, made of itself and its own one.

    By a class of its own, since what is recorded is a copy of the module.
    """
    kind: Any = type(module)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(self, functools.partial(kind.forward, self))(*args, **kwargs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def given(change: Callable[[Tensor], Tensor]) -> Change:
    """What goes into the module is changed."""

    def around(module: Any, forward: Forward) -> Forward:
        return lambda x, *args, **kwargs: forward(change(x), *args, **kwargs)

    return lambda module: _forward(module, around)


def made(change: Callable[[Any, Tensor], Tensor]) -> Change:
    """Instead of the module a function of itself and of what goes in."""

    def around(module: Any, forward: Forward) -> Forward:
        return lambda x: change(module, x)

    return lambda module: _forward(module, around)


def held(name: str, change: Callable[[Any], Tensor | None]) -> Change:
    """It computes with another value of one of its tensors, a function of the module."""

    def around(module: Any, forward: Forward) -> Forward:
        own = module._parameters if name in module._parameters else module._buffers

        def run(*args: Any) -> Any:
            with mock.patch.dict(own, {name: change(module)}):
                return forward(*args)

        return run

    return lambda module: _forward(module, around)


def sets(name: str, value: Any) -> Change:
    """One of its attributes is another."""
    return lambda module: setattr(module, name, value)


def attends(change: Callable[..., Tensor]) -> Change:
    """Attention inside it is a function of queries, keys, values, mask: (N, heads, L, D)."""

    def around(module: Any, forward: Forward) -> Forward:
        def attention(
            q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *_: Any, **more: Any
        ) -> Any:
            return change(q, k, v, more.get("attn_mask", mask))

        def run(*args: Any, **kwargs: Any) -> Any:
            with mock.patch.object(functional, "scaled_dot_product_attention", attention):
                return forward(*args, **kwargs)

        return run

    return lambda module: _forward(module, around)


def _in_float32(module: Any) -> None:
    def around(m: Any, forward: Forward) -> Forward:
        own = (m._parameters, m._buffers)

        def run(x: Tensor) -> Tensor:
            with mock.patch.dict(own[0]), mock.patch.dict(own[1]):
                for tensors in own:
                    tensors.update({n: t.float() for n, t in tensors.items()})
                return forward(x.float()).double()

        return run

    _forward(module, around)


def _batch_norm(
    m: Any,
    x: Tensor,
    axes: tuple[int, ...] = (0, 2, 3),
    *,
    unbiased: bool = False,
    detached: bool = False,
) -> Tensor:
    """A BatchNorm written out: its statistics are of other values, or have no gradient."""
    shape = (1, -1, 1, 1)
    mean, var = m.running_mean.view(shape), m.running_var.view(shape)
    if m.training:
        seen = x.detach() if detached else x
        mean = seen.mean(axes, keepdim=True)
        var = seen.var(axes, unbiased=unbiased, keepdim=True)
        with torch.no_grad():
            m.running_mean.lerp_(x.mean((0, 2, 3)), m.momentum)
            m.running_var.lerp_(x.var((0, 2, 3)), m.momentum)
    return (x - mean) / (var + m.eps).sqrt() * m.weight.view(shape) + m.bias.view(shape)


def _updates(times: int, biased: bool = False) -> Change:
    """A BatchNorm whose buffers move so often in a step, or by the biased variance."""

    def change(m: Any, x: Tensor) -> Tensor:
        y = functional.batch_norm(
            x,
            m.running_mean.clone(),
            m.running_var.clone(),
            m.weight,
            m.bias,
            m.training,
            m.momentum,
            m.eps,
        )
        for _ in range(times if m.training else 0):
            with torch.no_grad():
                m.running_mean.lerp_(x.mean((0, 2, 3)), m.momentum)
                m.running_var.lerp_(x.var((0, 2, 3), unbiased=not biased), m.momentum)
        return y

    return made(change)


def _eps_outside(m: Any, x: Tensor) -> Tensor:
    if m.training:
        return functional.batch_norm(
            x, m.running_mean, m.running_var, m.weight, m.bias, True, m.momentum, m.eps
        )
    shape = (1, -1, 1, 1)
    scale = m.weight / (m.running_var.sqrt() + m.eps)
    return (x - m.running_mean.view(shape)) * scale.view(shape) + m.bias.view(shape)


def _batch_s_statistics(m: Any, x: Tensor) -> Tensor:
    momentum = m.momentum if m.training else 0.0
    return functional.batch_norm(
        x, m.running_mean, m.running_var, m.weight, m.bias, True, momentum, m.eps
    )


_sdpa = functional.scaled_dot_product_attention


def _same_padding(m: Any, x: Tensor) -> Tensor:
    """Padded at the end alone."""
    (h, w) = m.padding
    x = functional.pad(x, (0, 2 * w, 0, 2 * h))
    return functional.conv2d(x, m.weight, m.bias, m.stride, 0, m.dilation, m.groups)


def _reflects(m: Any, x: Tensor) -> Tensor:
    (h, w) = m.padding
    x = functional.pad(x, (w, w, h, h), mode="reflect")
    return functional.conv2d(x, m.weight, m.bias, m.stride, 0, m.dilation, m.groups)


def _interleaved(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """The heads put side by side value by value."""
    y = _sdpa(q, k, v, mask)
    n, h, length, d = y.shape
    return y.permute(0, 2, 3, 1).reshape(n, length, h, d).transpose(1, 2)


def _without_skip(module: Any) -> None:
    def around(m: Any, forward: Forward) -> Forward:
        if hasattr(m, "dense"):  # BERT's, which is given both
            return lambda y, x: forward(y, torch.zeros_like(x))
        if hasattr(m, "conv1"):
            return lambda x: m.relu(m.bn2(m.conv2(m.relu(m.bn1(m.conv1(x))))))
        return lambda x: m.conv(x)

    _forward(module, around)


def _joined_otherwise(module: Any) -> None:
    def around(m: Any, forward: Forward) -> Forward:
        return lambda x: torch.cat(forward(x).chunk(2, 1)[::-1], 1)

    _forward(module, around)


def _has_skip(m: Any) -> bool:
    """Whether it is a plain one, which adds what goes in as it is."""
    return getattr(m, "use_res_connect", True) and getattr(m, "downsample", None) is None


@dataclass(frozen=True)
class Mutation:
    """A mistake in one layer of a kind: the one in the middle of those that fit.

    `kinds` are classes' names; none is the network itself. `place`, where it must be found:
    `forward` is the layer's output where the layer has tensors, else what goes into the next one;
    `train` the same in train mode alone; `into NAME` what goes into that layer inside; `buffer`,
    `grad` are a tensor of the layer; `back` the gradients behind it.
    """

    change: Change
    kinds: str
    place: str = "forward"
    fits: Callable[[Any], bool] = lambda module: True


def _wide(m: Any) -> bool:
    return m.kernel_size[0] > 1 and m.padding[0] > 0


def _square(m: Any) -> bool:
    return m.weight.shape[0] == m.weight.shape[1]


def _has_bias(m: Any) -> bool:
    return m.bias is not None


_CONV, _NORM, _BATCH_NORM, _DENSE = "Conv2d", "BatchNorm2d LayerNorm", "BatchNorm2d", "Linear"
_ACT, _ATT = "ReLU ReLU6 GELU GELUActivation", "MultiheadAttention BertSdpaSelfAttention"

MUTATIONS = {
    "image_bgr": Mutation(given(lambda x: x.flip(1)), ""),
    "image_columns_flipped": Mutation(given(lambda x: x.flip(3)), ""),
    "image_normalised_twice": Mutation(given(lambda x: (x - 0.45) / 0.225), ""),
    "image_in_bfloat16": Mutation(given(lambda x: x.bfloat16().double()), ""),
    "kernel_transposed": Mutation(held("weight", lambda m: m.weight.mT), _CONV, fits=_wide),
    "kernel_flipped": Mutation(held("weight", lambda m: m.weight.flip(2, 3)), _CONV, fits=_wide),
    "kernel_reshaped_to_layout": Mutation(
        held("weight", lambda m: m.weight.permute(2, 3, 1, 0).reshape(m.weight.shape)), _CONV
    ),
    "kernel_in_and_out_swapped": Mutation(
        held("weight", lambda m: m.weight.transpose(0, 1)), f"{_CONV} {_DENSE}", fits=_square
    ),
    "weight_through_float32": Mutation(
        held("weight", lambda m: m.weight.float().double()), f"{_CONV} {_DENSE}"
    ),
    "products_in_bfloat16": Mutation(given(lambda x: x.bfloat16().double()), f"{_CONV} {_DENSE}"),
    "bias_missing": Mutation(held("bias", lambda m: None), f"{_CONV} {_DENSE}", fits=_has_bias),
    "padded_at_the_end": Mutation(made(_same_padding), _CONV, fits=_wide),
    "padding_reflects": Mutation(made(_reflects), _CONV, fits=_wide),
    "eps_1e-3": Mutation(sets("eps", 1e-3), _NORM),
    "eps_1.1e-5": Mutation(sets("eps", 1.1e-5), _NORM),
    "gamma_missing": Mutation(held("weight", lambda m: torch.ones_like(m.weight)), _NORM),
    "beta_missing": Mutation(held("bias", lambda m: torch.zeros_like(m.bias)), _NORM),
    "gamma_and_beta_swapped": Mutation(held("weight", lambda m: m.bias), _NORM),
    "norm_in_float32": Mutation(_in_float32, _NORM),
    "eps_outside_the_root": Mutation(made(_eps_outside), _BATCH_NORM),
    "buffers_not_loaded": Mutation(
        held("running_var", lambda m: torch.ones_like(m.running_var)), _BATCH_NORM
    ),
    "train_mode_in_eval": Mutation(made(_batch_s_statistics), _BATCH_NORM),
    "normalised_by_the_unbiased_variance": Mutation(
        made(functools.partial(_batch_norm, unbiased=True)), _BATCH_NORM, "train"
    ),
    "statistics_of_each_image": Mutation(
        made(functools.partial(_batch_norm, axes=(2, 3))), _BATCH_NORM, "train"
    ),
    "gradient_not_through_the_statistics": Mutation(
        made(functools.partial(_batch_norm, detached=True)), _BATCH_NORM, "back"
    ),
    "norm_decay_0.99": Mutation(sets("momentum", 0.01), _BATCH_NORM, "buffer"),
    "norm_decay_and_its_complement_swapped": Mutation(sets("momentum", 0.9), _BATCH_NORM, "buffer"),
    "buffers_not_updated": Mutation(_updates(0), _BATCH_NORM, "buffer"),
    "buffers_updated_twice": Mutation(_updates(2), _BATCH_NORM, "buffer"),
    "running_variance_biased": Mutation(_updates(1, biased=True), _BATCH_NORM, "buffer"),
    "gamma_frozen": Mutation(lambda m: m.weight.requires_grad_(False), _NORM, "grad"),
    "activation_missing": Mutation(made(lambda m, x: x.clone()), _ACT),
    "activation_leaky": Mutation(made(lambda m, x: functional.leaky_relu(x, 0.01)), _ACT),
    "activation_in_float32": Mutation(_in_float32, _ACT),
    "gelu_by_tanh": Mutation(
        made(lambda m, x: functional.gelu(x, approximate="tanh")), "GELU GELUActivation"
    ),
    "gradient_halved": Mutation(given(lambda x: x / 2 + x.detach() / 2), _DENSE, "back"),
    "pool_averages": Mutation(
        made(
            lambda m, x: functional.avg_pool2d(x, m.kernel_size, m.stride, m.padding, m.ceil_mode)
        ),
        "MaxPool2d",
    ),
    "pool_one_pixel_off": Mutation(given(lambda x: x.roll(1, 3)), "MaxPool2d AvgPool2d"),
    "dropout_left_in": Mutation(
        made(lambda m, x: functional.dropout(x, 0.1, training=True)), "Dropout"
    ),
    "skip_left_out": Mutation(_without_skip, "InvertedResidual BasicBlock", fits=_has_skip),
    "skip_before_norm_left_out": Mutation(_without_skip, "BertSelfOutput", "into LayerNorm"),
    "parts_joined_in_another_order": Mutation(_joined_otherwise, "Fire"),
    "attention_not_scaled": Mutation(
        attends(lambda q, k, v, mask: _sdpa(q, k, v, mask, scale=1.0)), _ATT
    ),
    "attention_scaled_by_the_width": Mutation(
        attends(
            lambda q, k, v, mask: _sdpa(q, k, v, mask, scale=(q.shape[1] * q.shape[3]) ** -0.5)
        ),
        _ATT,
    ),
    "attention_causal": Mutation(
        attends(lambda q, k, v, mask: _sdpa(q, k, v, is_causal=True)), _ATT
    ),
    "attention_mask_ignored": Mutation(
        attends(lambda q, k, v, mask: _sdpa(q, k, v)), "BertSdpaSelfAttention"
    ),
    "attention_in_float32": Mutation(
        attends(lambda q, k, v, mask: _sdpa(q.float(), k.float(), v.float()).double()),
        "MultiheadAttention",
    ),
    "queries_and_keys_swapped": Mutation(attends(lambda q, k, v, mask: _sdpa(k, q, v, mask)), _ATT),
    "heads_interleaved": Mutation(attends(_interleaved), _ATT),
    "words_shifted": Mutation(given(lambda x: x.roll(1, 1)), "Embedding"),
}


@dataclass(frozen=True)
class Network:
    """A network that mistakes are put into, and what it is called with: images, or keywords."""

    build: Callable[[], Any]
    keywords: Callable[[], dict[str, Any]] = dict


def _words() -> dict[str, Any]:
    return {key: torch.from_numpy(array) for key, array in huggingface.given("Bert").items()}


def _transformer() -> Any:
    kind = import_torchvision().models.VisionTransformer
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    return kind(image_size=SIZE, patch_size=16, num_classes=10, **sizes)


def _densenet() -> Any:
    kind = import_torchvision().models.DenseNet
    return kind(growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16, num_classes=10)


SIZE = 64
"""Pixels of an image's side."""

NETWORKS = {
    "ResNet18": Network(lambda: torchvision("resnet18")),
    "DenseNet": Network(_densenet),
    "MobileNet v2": Network(lambda: torchvision("mobilenet_v2", width_mult=0.25)),
    "SqueezeNet 1.1": Network(lambda: torchvision("squeezenet1_1")),
    "ViT": Network(_transformer),
    "BERT": Network(lambda: huggingface.torch_model("Bert"), _words),
}


def _fitting(model: Any, mutation: Mutation, reference: Record) -> tuple[str, Any] | None:
    """The path and the module that a mutation is put into; None where none is called."""
    if not mutation.kinds:
        return ("", model) if not hasattr(model, "bert") else None
    kinds = mutation.kinds.split()
    modules = model.named_modules()
    called = [(path, m) for path, m in modules if path in reference.calls]
    found = [(p, m) for p, m in called if type(m).__name__ in kinds and mutation.fits(m)]
    return found[len(found) // 2] if found else None


def _expected(reference: Record, path: str, mutation: Mutation) -> str:
    """The beginning of the name of the value that must be found first."""
    tensors = reference.layers[path].tensors if path else {}
    if mutation.place in ("buffer", "grad"):
        return f"{mutation.place}/{path}."
    if mutation.place.startswith("into "):
        return f"local/eval/{path}.{mutation.place.removeprefix('into ')}:in"
    if tensors and mutation.place != "back":
        return f"local/{'train' if mutation.place == 'train' else 'eval'}/{path}:out"
    order = reference.order
    behind = order[order.index(f"eval/{path}:out") + 1 :] if path else order
    for name in behind:
        _, layer, _, side = split_value(name)
        if side.startswith("in") and reference.layers[layer].tensors:
            return f"local/{name}"
    return "eval/output"


def run_network(name: str) -> list[dict[str, Any]]:
    """A network with each mutation that there is a layer for: is it caught, and its place found?"""
    return list(_runs(name))


def _runs(name: str) -> Iterator[dict[str, Any]]:
    network = NETWORKS[name]
    keywords = network.keywords()
    inputs = [] if keywords else [torch.from_numpy(images(SIZE))]

    def loss(y: Any) -> Tensor:
        return getattr(y, "logits", y).square().mean()

    def recorded(model: Any, out: Path, **options: Any) -> Record:
        return record(model, *inputs, keywords=keywords, loss=loss, out=out, **options)

    with tempfile.TemporaryDirectory() as folder:
        files = {"against": Path(folder) / "a.safetensors", "map": Path(folder) / "map.toml"}
        recorded(network.build(), files["against"], generic=0)
        reference = read_record(files["against"])
        for mutation_name, mutation in MUTATIONS.items():
            model = network.build()
            place = _fitting(model, mutation, reference)
            if place is None:
                continue
            mutation.change(place[1])
            port = recorded(model, Path(folder) / "b.safetensors", **files)
            report = compare_records([reference, Record("b", port.arrays, port.metadata)], {})
            told = {"network": name, "mutation": mutation_name, "layer": place[0]}
            yield told | _judged(report, reference, place[0], mutation)


def _judged(report: Report, reference: Record, path: str, mutation: Mutation) -> dict[str, Any]:
    first = report.first("b")
    names = [d.name for d in report.differences if d is first]
    names += [finding.name for finding in report.findings]
    found = names[0] if names else None
    if mutation.place == "back":
        expected = f"on the way back from {path} to"
        located = first is not None and first.place.startswith(expected)
    else:
        expected = _expected(reference, path, mutation)
        located = found is not None and found.startswith(expected)
    changed = bool(report.findings) or any(d.largest for d in report.differences)
    return {
        "caught": not report.passed,
        "located": located,
        "dead": not changed,
        "healed": any(d.status == "healed" for d in report.differences),
        "first": first.where_it_is if first else found,
        "expected": expected,
    }
