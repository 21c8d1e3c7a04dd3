"""The network in PyTorch; its files are read in the order in which they stand here."""

from backends.torch.device import prepare, select_device, threads, to_device, to_numpy, versions
from backends.torch.upsampling import TransposeConv
from backends.torch.model import FCN, build_model
from backends.torch.loss import cross_entropy
from backends.torch.optimizer import build_optimizer
from backends.torch.processes import Group, join
from backends.torch.weights import imagenet_weights, import_weights, read_arrays, write_arrays
from backends.torch.train import Trainer
from backends.torch.probe import Probe, find_layer
from backends.torch.record import load, record
