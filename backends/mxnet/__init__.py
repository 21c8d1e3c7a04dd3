"""The network in MXNet Gluon; its files are read in the order in which they stand here."""

from backends.mxnet.device import prepare, select_device, threads, to_device, to_numpy, versions
from backends.mxnet.upsampling import TransposeConv
from backends.mxnet.model import FCN, build_model
from backends.mxnet.loss import cross_entropy
from backends.mxnet.optimizer import build_optimizer
from backends.mxnet.processes import Group, join
from backends.mxnet.weights import imagenet_weights, import_weights, read_arrays, write_arrays
from backends.mxnet.train import Trainer
from backends.mxnet.probe import Probe, find_layer
from backends.mxnet.record import load, record
