"""The departures of *Dive into Deep Learning* 14.11, in this project's terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config import Architecture, Void
from parity_tests.mutations.apply import Mutation, Patch
from parity_tests.mutations.catalogue import MUTATIONS

TORCH_2023, MXNET_2023 = "PyTorch 2023", "MXNet 2023"
TORCH_2026, MXNET_2026 = "PyTorch 2026", "MXNet 2026"
JAX_2026, TENSORFLOW_2026 = "JAX 2026", "TensorFlow 2026"
TABS = (TORCH_2023, MXNET_2023, TORCH_2026, MXNET_2026, JAX_2026, TENSORFLOW_2026)
"""Editions 1.0.3, of 2023, and of 2026."""

_SUMMED = (TORCH_2023, TORCH_2026, MXNET_2026)
_PLAIN_SGD = (TORCH_2023, TORCH_2026, MXNET_2023)


@dataclass(frozen=True)
class Departure:
    """One difference from the plain network: what it is, and the tabs that have it.

    It is made by `settings` of `Config`; or, where that has none, by porting mistakes that are
    `mutations` already, or by `patches` of PyTorch's backend.
    """

    name: str
    title: str
    tabs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    mutations: tuple[str, ...] = ()
    patches: tuple[Patch, ...] = ()

    def change(self) -> Mutation | None:
        """What the backend's source is changed by; None where it stays as it is."""
        known = {mutation.name: mutation for mutation in MUTATIONS}
        borrowed = (patch for name in self.mutations for patch in known[name].patches["torch"])
        patches = (*borrowed, *self.patches)
        return Mutation(self.name, self.title, (), {"torch": patches}, {}) if patches else None


_SUM = Patch(
    "train.Trainer._backward",
    "cross_entropy(__cells, __truth, count)",
    "cross_entropy(__cells, __truth, count) * (__truth != 255).sum() / labels[0].size",
)
"""The sum over the batch's images of the sum over an image's pixels, divided by their number."""

PLAIN = Departure("plain", "the network of this project")

DEPARTURES = (
    Departure(
        "running_statistics",
        "running statistics used in training",
        (JAX_2026,),
        mutations=("eval_mode_in_training",),
    ),
    Departure(
        "loss_summed",
        "loss summed over the images of a batch, our rate",
        _SUMMED,
        patches=(_SUM,),
    ),
    Departure(
        "rate_0.001_loss_summed",
        "rate 0.001, loss summed over the images of a batch",
        _SUMMED,
        settings={"learning_rate": 0.001},
        patches=(_SUM,),
    ),
    Departure(
        "rate_0.001",
        "rate 0.001, loss averaged",
        (JAX_2026, TENSORFLOW_2026),
        settings={"learning_rate": 0.001},
    ),
    Departure(
        "rate_0.1", "rate 0.1, loss averaged", (MXNET_2023,), settings={"learning_rate": 0.1}
    ),
    Departure("no_momentum", "no momentum", _PLAIN_SGD, settings={"momentum": 0.0}),
    Departure("decay_1e-3", "weight decay 1e-3", _PLAIN_SGD, settings={"weight_decay": 1e-3}),
    Departure("head_rate", "head rate times ten", (JAX_2026,), settings={"head_rate": 10.0}),
    Departure(
        "no_upsampling_bias",
        "no bias in the upsampling",
        (JAX_2026,),
        mutations=("upsampling_bias_dropped",),
    ),
    Departure(
        "same_padding",
        "SAME padding at stride 2",
        (TENSORFLOW_2026,),
        mutations=("stem_same_padding", "pool_padded_after", "block_same_padding"),
    ),
    Departure(
        "bn_decay_0.99", "BatchNorm's decay 0.99", (TENSORFLOW_2026,), settings={"bn_decay": 0.99}
    ),
    Departure("bn_eps_1e-3", "BatchNorm's eps 1e-3", (TENSORFLOW_2026,), settings={"bn_eps": 1e-3}),
    Departure("void", "void as background", TABS, settings={"void": Void.background}),
    Departure("batch_4", "batches of 4", (JAX_2026,), settings={"batch_size": 4}),
    Departure(
        "resnet34",
        "a deeper backbone: resnet34 for the tab's ResNet-50",
        (JAX_2026,),
        settings={"architecture": Architecture.resnet34},
    ),
    Departure(
        "resnet18_v2",
        "a pre-activation backbone: resnet18_v2",
        (MXNET_2023, MXNET_2026),
        settings={"architecture": Architecture.resnet18_v2},
    ),
)
