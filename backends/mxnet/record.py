"""MXNet: records a run of any Gluon block: what goes into every layer, and what comes out."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Block, HybridBlock, Parameter, Trainer, nn, rnn

from backends.mxnet.device import to_numpy, versions
from common.errors import InputError
from common.parity.masks import Masks
from common.parity.recording import Options, mapped, record_subject
from common.parity.records import Layer, Record, Source, Tensor
from common.parity.subject import (
    Call,
    Mode,
    Pass,
    checked_dtype,
    computed_loss,
    masks_of,
    modes_of,
)
from common.parity.watching import (
    Feed,
    Watcher,
    is_numpy,
    kind_of,
    leaves,
    map_leaves,
    settings_of,
    source_of,
)
from common.protocol import Array, Arrays

_SPATIAL = {1: "w", 2: "h w", 3: "d h w"}


def _axes(block: Block, name: str, array: Array) -> str:
    """The names of a tensor's axes, as far as its block's class tells them."""
    if array.ndim == 1:
        return "o"
    if name == "weight" and isinstance(block, nn.conv_layers._Conv):
        channels = "i o" if "Transpose" in type(block).__name__ else "o i"
        return f"{channels} {_SPATIAL[array.ndim - 2]}"
    if name == "weight" and isinstance(block, nn.Dense):
        return "o i"
    if name == "weight" and isinstance(block, nn.Embedding):
        return "v o"
    return ""


def _channels(block: Block) -> int | None:
    convolutional = nn.conv_layers._Conv | nn.BatchNorm | nn.InstanceNorm | nn.GroupNorm
    return 1 if isinstance(block, convolutional) else None


def _constants(block: Block) -> list[Parameter]:
    """What a norm without scale or shift has all the same: gamma and beta that stay 1 and 0."""
    own = block._reg_params
    used = {"gamma": getattr(block, "_scale", True), "beta": getattr(block, "_center", True)}
    return [
        own[n]
        for n, is_used in used.items()
        if n in own and not (is_used and own[n]._differentiable)
    ]


def _source(block: Block) -> Source | None:
    # differs: a hybrid block may have its forward pass in either of two methods
    methods = block.forward, getattr(block, "hybrid_forward", None)
    library = "mxnet.gluon.nn", "mxnet.gluon.block"
    return next(filter(None, (source_of(method, library) for method in methods)), None)


@contextlib.contextmanager
def watched(
    modules: Mapping[str, Block],
    watcher: Watcher,
    method: str = "forward",
    instead: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """While it is entered, `watcher` looks on where a `method` of one of `modules` is called.

    What is called then is it, or what stands `instead` of it.
    """
    with contextlib.ExitStack() as stack:
        for path, block in modules.items():
            run = (instead or {}).get(path) or getattr(block, method)
            call = partial(watcher.call, path, run)
            stack.enter_context(mock.patch.object(block, method, call))
        yield


class Subject:
    """A model as a function: see `common.parity.subject.Subject`."""

    framework = "mxnet"
    pattern = "*"
    dropout: int | None = None

    def __init__(
        self,
        model: Block,
        loss: Callable[..., Any] | None,
        optimizer: Trainer | None,
        train: Mapping[str, Any] | Literal[False] | None,
        evaluate: Mapping[str, Any],
        dtype: str,
    ) -> None:
        self.dtype = checked_dtype(dtype)
        self.modes = modes_of(train, loss)
        if dtype == "bfloat16":
            raise InputError("dtype bfloat16: MXNet does not compute in it on a CPU")
        self.notes: list[str] = []
        if not isinstance(model, Block):
            raise InputError(f"{type(model).__name__}: not a block of Gluon")
        if not isinstance(optimizer, Trainer | None):
            raise InputError(f"optimizer: {optimizer!r} is no Trainer of Gluon")
        if train or evaluate:
            raise InputError(f"{type(model).__name__}: a Gluon block takes no keyword arguments")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        first: dict[int, str] = {}  # a shared block has one path
        self.blocks = {p: b for p, b in _blocks(model) if first.setdefault(id(b), p) == p}
        self.compiled = any(getattr(block, "_active", False) for block in self.blocks.values())
        parameters = model._collect_params_with_prefix()
        self.constants = [p for block in self.blocks.values() for p in _constants(block)]
        fixed = {id(parameter) for parameter in self.constants}
        parameters = {name: p for name, p in parameters.items() if id(p) not in fixed}
        names = {id(parameter): name for name, parameter in reversed(parameters.items())}
        self.held: dict[str, Parameter] = {
            name: parameter
            for name, parameter in parameters.items()
            if names[id(parameter)] == name
        }
        self.rates = {b: b._rate for b in self.blocks.values() if isinstance(b, nn.Dropout)}
        for path, block in self.blocks.items():
            if isinstance(block, rnn.rnn_layer._RNNLayer) and block._dropout > 0:
                self.notes.append(f"{path or 'the network'}: its own dropout is off")
        for name, parameter in self.held.items():
            if parameter._data is None:
                raise InputError(
                    f"{name}: has no values yet; call the block once, or initialize it"
                )
        self.weights = self._export()
        self.tensors: dict[str, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        for path, block in self.blocks.items():
            mine = {name: names[id(p)] for name, p in block._reg_params.items() if id(p) in names}
            kind = kind_of(block, "mxnet.gluon", {Block, HybridBlock})
            self.layers[path] = Layer(
                kind, mine, _channels(block), settings_of(block), _source(block)
            )
            for name, full in mine.items():
                trained = self.held[full].grad_req != "null"
                array = self.weights[full]
                axes = _axes(block, name, array)
                self.tensors.setdefault(full, Tensor(array.shape, axes, trained))

    def versions(self) -> dict[str, str]:
        return versions()

    def run(
        self, weights: Arrays, call: Call, mode: Mode, seed: int, feed: Feed | None = None
    ) -> Pass:
        given = {
            self._before_activation(name): self._to_device(array)
            for name, array in (feed or {}).items()
        }
        record = autograd.record if mode == "train" else autograd.predict_mode
        with self._entered(weights):
            with record(), self._watched(mode, self.pattern, given) as watcher:
                output = self._call(call)
                loss = None
                if mode == "train" and self.loss is not None and not feed:
                    loss = computed_loss(self.loss, output)
            own = {n: watcher.values[self._before_activation(n)] for n in watcher.values}
            found = Pass(own, {k: to_numpy(y) for k, y in leaves(output, _is_array).items()})
            if loss is not None:
                loss.backward()
                found.loss = to_numpy(loss).reshape(())
                found.gradients = {
                    name: to_numpy(parameter.grad()) if parameter.data()._fresh_grad else None
                    for name, parameter in self.held.items()
                    if self.tensors[name].trained
                }
            if mode == "train":
                after = self._export()
                found.buffers = {n: a for n, a in after.items() if not self.tensors[n].trained}
        return found

    def _before_activation(self, name: str) -> str:
        """Where a layer's own output is: one with an activation inside hands that to it."""
        path, out, leaf = name.partition(":out")
        layer, at, call = path.partition("@")
        if not out or leaf or getattr(self.blocks[layer], "act", None) is None:
            return name
        return f"{layer}.act{at}{call}:in"

    def run_compiled(self, weights: Arrays, call: Call) -> Arrays | None:
        if not self.compiled:
            return None
        with self._entered(weights, hybrid=True), autograd.predict_mode():
            output = self._call(call)
        return {name: to_numpy(y) for name, y in leaves(output, _is_array).items()}

    def train(self, weights: Arrays, calls: Sequence[Call], seed: int) -> tuple[Array, Arrays]:
        assert self.loss is not None and self.optimizer is not None
        losses = []
        with self._entered(weights):
            optimizer = self._optimizer()
            for call in calls:
                with autograd.record(), self._watched("train", pattern=""):
                    loss = computed_loss(self.loss, self._call(call))
                loss.backward()
                optimizer.step(1, ignore_stale_grad=True)  # some may have none
                losses.append(to_numpy(loss).item())
            return np.array(losses), self._export()

    def _optimizer(self) -> Trainer:
        """One like the user's, which is left as it is."""
        assert self.optimizer is not None
        like = self.optimizer
        fresh = Trainer(like._params, copy.deepcopy(like._optimizer), kvstore=None)
        states = like._updaters[0].states if like._updaters else {}
        fresh._updaters[0].states = {
            key: map_leaves(state, _is_array, lambda _, array: array.astype(self.dtype))
            for key, state in states.items()
        }
        fresh._updaters[0].states_synced = dict.fromkeys(states, True)
        return fresh

    # differs: a block cannot be copied, so the user's own is computed with; what
    # belongs to it is put aside meanwhile, and put back untouched.
    @contextlib.contextmanager
    def _entered(self, weights: Arrays, hybrid: bool = False) -> Iterator[None]:
        """Parameters in the dtype and no dropout, while it is entered; hybridized is what is so
        already, or nothing.
        """
        own = ("_data", "_grad", "_dtype", "_trainer")
        every = [*self.held.values(), *self.constants]
        before = [(p, [getattr(p, name) for name in own]) for p in every]
        with contextlib.ExitStack() as stack:
            for block in self.blocks.values():
                if isinstance(block, HybridBlock) and not hybrid:
                    stack.enter_context(mock.patch.object(block, "_active", False))
                if isinstance(block, nn.Dropout):
                    stack.enter_context(mock.patch.object(block, "_rate", 0))
                if isinstance(block, rnn.rnn_layer._RNNLayer):
                    stack.enter_context(mock.patch.object(block, "_dropout", 0))
            try:
                for parameter in every:
                    parameter.cast(self.dtype)
                for name, parameter in self.held.items():
                    parameter.set_data(self._to_device(weights[name]))
                    if parameter.grad_req != "null":
                        parameter.zero_grad()
                        parameter.data()._fresh_grad = False
                yield
            finally:
                for parameter, values in before:
                    for name, value in zip(own, values, strict=True):
                        setattr(parameter, name, value)

    def _export(self) -> Arrays:
        return {
            name: to_numpy(parameter.data()).astype(np.float64)
            for name, parameter in self.held.items()
        }

    def _to_device(self, array: Array) -> nd.NDArray:
        return nd.array(array, dtype=self.dtype if array.dtype.kind == "f" else array.dtype)

    def _call(self, call: Call) -> Any:
        if call[1]:
            raise InputError(
                f"{type(self.model).__name__}: a Gluon block takes no keyword arguments"
            )

        def given(_: str, array: Array) -> nd.NDArray:
            value = self._to_device(array)
            # differs: an eager backward ends where nothing needs a gradient, and leaves the buffers
            # of a BatchNorm that is there; a compiled one runs it.
            if self.compiled and array.dtype.kind == "f":
                value.attach_grad()
            return value

        args, _ = map_leaves(call, is_numpy, given)
        return self.model(*args)

    def _masked(self, block: Any, masks: Masks, x: nd.NDArray) -> nd.NDArray:
        """What a layer of dropout makes of its input."""
        mask = masks.next(x.shape, self.rates[block], block._axes)
        return nd.broadcast_mul(x, nd.array(mask, dtype=x.dtype))

    @contextlib.contextmanager
    def _watched(
        self, mode: Mode, pattern: str, feed: Mapping[str, nd.NDArray] | None = None
    ) -> Iterator[Watcher]:
        kept: dict[int, tuple[nd.NDArray, Array]] = {}

        def keep(array: nd.NDArray) -> Array:
            # A copy at once, since an array may be written to: the same one as long as it is equal.
            value = to_numpy(array)
            if id(array) not in kept or not np.array_equal(kept[id(array)][1], value):
                kept[id(array)] = array, value
            return kept[id(array)][1]

        masks = masks_of(self, mode)
        dropping = [path for path, block in self.blocks.items() if block in self.rates]
        masked = {p: partial(self._masked, self.blocks[p], masks) for p in dropping if masks}
        watcher = Watcher(_is_array, keep, feed, pattern, masks)
        with watched(self.blocks, watcher, instead=masked):
            yield watcher


def _blocks(block: Block, path: str = "") -> Iterator[tuple[str, Block]]:
    """Every block inside by its path."""
    yield path, block
    for name, child in block._children.items():
        yield from _blocks(child, f"{path}.{name}" if path else name)


def _is_array(value: Any) -> bool:
    """Whether it is an array of MXNet."""
    return isinstance(value, nd.NDArray)


def record(
    model: Block,
    *inputs: Any,
    out: Path | str,
    loss: Callable[..., Any] | None = None,
    optimizer: Trainer | None = None,
    steps: int | Sequence[Any] = 1,
    keywords: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | Literal[False] | None = None,
    eval: Mapping[str, Any] | None = None,
    generic: int | None = None,
    against: Path | str | None = None,
    map: Path | str | None = None,
    keep: str = "*",
    weights: bool = True,
    dropout: int | None = None,
    dtype: str = "float64",
) -> Record:
    """Records a run of `model` in `dtype`: see `common.parity.recording.record_subject`."""
    subject = Subject(model, loss, optimizer, train, eval or {}, dtype)
    called = _numpy((inputs, keywords or {}, steps))
    options = Options(
        out, optimizer is not None, generic, against, map, keep, weights, dropout, dtype
    )
    return record_subject(subject, called, options)


def load(model: Block, against: Path | str, map: Path | str) -> Block:
    """Puts a record's weights into `model`, through a map: `common.parity.recording.mapped`."""
    subject = Subject(model, None, None, {}, {}, "float64")
    for name, array in mapped(subject, against, map).items():
        parameter = subject.held[name]
        parameter.set_data(nd.array(array, dtype=parameter.dtype))
    return model


def _numpy(value: Any) -> Any:
    """MXNet's arrays in `value` as NumPy's, floats as float64."""

    def convert(_: str, array: nd.NDArray) -> Array:
        found = to_numpy(array)
        return found.astype(np.float64) if found.dtype.kind == "f" else found

    return map_leaves(value, _is_array, convert)
