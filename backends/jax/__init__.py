"""The network in JAX and Flax; its files are read in the order in which they stand here."""

from backends.jax.device import prepare, select_device, threads, to_device, to_numpy, versions
from backends.jax.upsampling import TransposeConv
from backends.jax.model import FCN, build_model
from backends.jax.loss import cross_entropy
from backends.jax.optimizer import build_optimizer
from backends.jax.processes import Group, join
from backends.jax.weights import imagenet_weights, import_weights, read_arrays, write_arrays
from backends.jax.train import Trainer
from backends.jax.probe import Probe, find_layer
from backends.jax.record import load, record
