"""PyTorch: records a run of any `nn.Module`: what goes into every layer, and what comes out."""

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import nn

from backends.torch.device import to_numpy, versions
from common.errors import InputError
from common.parity.masks import Masks
from common.parity.recording import Options, mapped, record_subject
from common.parity.records import Layer, Record, Tensor
from common.parity.subject import (
    Call,
    Mode,
    Pass,
    check_real,
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
_MASKED = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


def _axes(module: nn.Module, name: str, array: torch.Tensor) -> str:
    """The names of a tensor's axes, as far as its module's class tells them."""
    if array.ndim == 1:
        return "o"
    if name == "weight" and isinstance(module, nn.modules.conv._ConvNd):
        channels = "i o" if module.transposed else "o i"
        return f"{channels} {_SPATIAL[array.ndim - 2]}"
    if (name == "weight" and isinstance(module, nn.Linear)) or name == "in_proj_weight":
        return "o i"
    if name == "weight" and type(module).__name__ == "Conv1D":  # Hugging Face's, a dense layer
        return "i o"
    if name == "weight" and isinstance(module, nn.Embedding):
        return "v o"
    return ""


def _channels(module: nn.Module) -> int | None:
    convolutional = nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm
    return 1 if isinstance(module, convolutional) else None


@contextlib.contextmanager
def watched(
    modules: Mapping[str, nn.Module],
    watcher: Watcher,
    method: str = "forward",
    instead: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """While it is entered, `watcher` looks on where a `method` of one of `modules` is called.

    What is called then is it, or what stands `instead` of it.
    """
    with contextlib.ExitStack() as stack:
        for path, module in modules.items():
            run = (instead or {}).get(path) or getattr(module, method)
            call = partial(watcher.call, path, run)
            stack.enter_context(mock.patch.object(module, method, call))
        yield


def _check_dense(name: str, tensor: torch.Tensor) -> None:
    """That a tensor has a value for each of its places.

    Raises:
        InputError: it has not.
    """
    if nn.parameter.is_lazy(tensor):
        raise InputError(f"{name}: has no values yet; call the module once")
    if tensor.is_meta:
        raise InputError(f"{name}: has no values, on the device meta")
    if tensor.layout != torch.strided:
        raise InputError(f"{name}: sparse; give it dense, to_dense()")


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy.

    Raises:
        InputError: there is none, as of old-style weight norm, or of what holds a lock.
    """
    try:
        return copy.deepcopy(value, memo)
    except (RuntimeError, TypeError) as error:
        told = str(error).splitlines()[0]
        if "weight_norm" in told:
            told = "a weight is made of others: nn.utils.remove_weight_norm, remove_spectral_norm"
        raise InputError(f"{type(value[0]).__name__}: cannot be copied: {told}") from error


class Subject:
    """A model as a function: see `common.parity.subject.Subject`."""

    framework = "torch"
    pattern = "*"
    dropout: int | None = None

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | None,
        optimizer: torch.optim.Optimizer | None,
        train: Mapping[str, Any] | Literal[False] | None,
        evaluate: Mapping[str, Any],
        dtype: str,
    ) -> None:
        self.dtype = checked_dtype(dtype)
        self.modes = modes_of(train, loss)
        self.notes: list[str] = []
        if not isinstance(model, nn.Module):
            raise InputError(f"{type(model).__name__}: not a module of PyTorch")
        if isinstance(model, torch.jit.ScriptModule):
            raise InputError(f"{type(model).__name__}: a scripted module cannot be looked into")
        if not isinstance(optimizer, torch.optim.Optimizer | None):
            raise InputError(f"optimizer: {optimizer!r} is no optimizer of PyTorch")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            _check_dense(name, tensor)
            check_real(name, tensor.is_complex())
        # differs: a copy is recorded, and the user's model never touched; the
        # optimizer is copied along, and holds the copy's parameters.
        self.user, memo = model, dict[int, Any]()
        for module in reversed([*model.modules()]):
            if hasattr(module, "_orig_mod"):  # of torch.compile
                memo[id(module)] = copy.deepcopy(module._orig_mod, memo)
        self.model, self.optimizer = _copied((model, optimizer), memo)
        self.model.to(getattr(torch, dtype))
        self.loss, self.keywords = loss, {"train": train or {}, "eval": evaluate}
        modules = dict(self.model.named_modules())
        self.still = {m for m in modules.values() if self.model.training and not m.training}
        for path, module in modules.items():  # attention and recurrent layers have their own
            if isinstance(rate := getattr(module, "dropout", None), float) and rate > 0:
                module.dropout = 0.0
                self.notes.append(f"{path or 'the network'}: its own dropout is off")
            if nn.utils.parametrize.is_parametrized(module):
                made = ", ".join(module.parametrizations)
                self.notes.append(
                    f"{path or 'the network'}: {made} is made of other tensors; without that, as"
                    " nn.utils.parametrize.remove_parametrizations leaves it, it is a plain layer"
                )
        buffers = {n: b for n, b in self.model.named_buffers() if b.is_floating_point()}
        self.held: dict[str, torch.Tensor] = {**dict(self.model.named_parameters()), **buffers}
        self.tensors: dict[str, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        names = {id(tensor): name for name, tensor in self.held.items()}
        for path, module in modules.items():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            mine = {name: names[id(tensor)] for name, tensor in own if id(tensor) in names}
            kind = kind_of(module, "torch.nn", {nn.Module})
            about = settings_of(module), source_of(module.forward, "torch.nn")
            self.layers[path] = Layer(kind, mine, _channels(module), *about)
            for name, full in mine.items():
                trained = full not in buffers and self.held[full].requires_grad
                axes, shape = _axes(module, name, self.held[full]), tuple(self.held[full].shape)
                self.tensors.setdefault(full, Tensor(shape, axes, trained))
        self.weights = {name: array.astype(np.float64) for name, array in self._export().items()}
        if self.optimizer is not None:
            self.optimizer_state = copy.deepcopy(self.optimizer.state_dict())

    def versions(self) -> dict[str, str]:
        return versions()

    def run(
        self, weights: Arrays, call: Call, mode: Mode, seed: int, feed: Feed | None = None
    ) -> Pass:
        self._load(weights, mode)
        backward = mode == "train" and self.loss is not None and not feed
        given = {name: self._to_device(array) for name, array in (feed or {}).items()}
        with torch.random.fork_rng(), self._watched(mode, self.pattern, given) as watcher:
            torch.manual_seed(seed)
            with contextlib.nullcontext() if backward else _forgetful():
                output = self._call(call, mode)
        found = Pass(
            watcher.values, {k: to_numpy(y) for k, y in leaves(output, torch.is_tensor).items()}
        )
        if backward and self.loss is not None:
            loss = computed_loss(self.loss, output)
            self._differentiate(loss)
            found.loss = to_numpy(loss)
            found.gradients = {
                name: None if tensor.grad is None else to_numpy(tensor.grad)
                for name, tensor in self.held.items()
                if tensor.requires_grad
            }
        if mode == "train":
            after = self._export()
            found.buffers = {n: a for n, a in after.items() if not self.tensors[n].trained}
        return found

    def run_compiled(self, weights: Arrays, call: Call) -> Arrays | None:
        modes = {module: module.training for module in self.user.modules()}
        if not any(hasattr(m, "_orig_mod") or m._compiled_call_impl for m in modes):
            return None
        held = [*self.user.named_parameters(), *self.user.named_buffers()]
        plain = {name: name.replace("_orig_mod.", "") for name, _ in held}
        given = {n: self._to_device(weights[own]) for n, own in plain.items() if own in weights}
        args, kwargs = self._arguments(call, "eval")
        try:
            self.user.eval()
            with torch.no_grad(), torch.random.fork_rng():
                output = torch.func.functional_call(self.user, given, tuple(args), kwargs)
        finally:
            for module, training in modes.items():
                module.training = training
        return {name: to_numpy(y) for name, y in leaves(output, torch.is_tensor).items()}

    def train(self, weights: Arrays, calls: Sequence[Call], seed: int) -> tuple[Array, Arrays]:
        assert self.loss is not None and self.optimizer is not None
        self._load(weights, "train")
        self.optimizer.load_state_dict(copy.deepcopy(self.optimizer_state))
        losses = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for call in calls:
                self.optimizer.zero_grad()
                with self._watched("train", pattern=""):
                    loss = computed_loss(self.loss, self._call(call, "train"))
                self._differentiate(loss)
                self.optimizer.step()
                losses.append(loss.item())
        return np.array(losses), self._export()

    def _differentiate(self, loss: torch.Tensor) -> None:
        """Leaves gradients in the copy, and those of the user's model as they are.

        Raises:
            InputError: the loss reads the user's model, and not the copy.
        """
        user = dict(self.user.named_parameters())
        before = {name: parameter.grad for name, parameter in user.items()}
        try:
            for parameter in user.values():
                parameter.grad = None
            loss.backward()
            for name, parameter in user.items():
                if parameter.grad is not None:
                    raise InputError(f"loss: it reads {name}: give it what the model returns alone")
        finally:
            for name, parameter in user.items():
                parameter.grad = before[name]

    def _load(self, weights: Arrays, mode: Mode) -> None:
        with torch.no_grad():
            for name, tensor in self.held.items():
                tensor.copy_(torch.from_numpy(np.asarray(weights[name])))
                tensor.grad = None
        self.model.train(mode == "train")
        for module in self.model.modules():
            if module in self.still or isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()

    def _export(self) -> Arrays:
        return {name: to_numpy(tensor) for name, tensor in self.held.items()}

    def _to_device(self, array: Array) -> torch.Tensor:
        device = next((t.device for t in self.held.values()), torch.device("cpu"))
        tensor = torch.from_numpy(np.array(array)).to(device)
        return tensor.to(getattr(torch, self.dtype)) if tensor.is_floating_point() else tensor

    def _arguments(self, call: Call, mode: Mode) -> tuple[list[Any], dict[str, Any]]:
        found: tuple[list[Any], dict[str, Any]] = map_leaves(
            ([*call[0]], {**call[1], **self.keywords[mode]}),
            is_numpy,
            lambda _, array: self._to_device(array),
        )
        return found

    def _call(self, call: Call, mode: Mode) -> Any:
        args, kwargs = self._arguments(call, mode)
        return self.model(*args, **kwargs)

    def _masked(self, module: Any, masks: Masks, x: torch.Tensor) -> torch.Tensor:
        """What a layer of dropout makes of its input."""
        shared = () if isinstance(module, nn.Dropout) else range(2, x.ndim)
        return x * self._to_device(masks.next(x.shape, module.p, shared)).to(x.dtype)

    @contextlib.contextmanager
    def _watched(
        self, mode: Mode, pattern: str, feed: Mapping[str, torch.Tensor] | None = None
    ) -> Iterator[Watcher]:
        kept: dict[tuple[int, int], tuple[weakref.ref[torch.Tensor], Array]] = {}

        def keep(tensor: torch.Tensor) -> Array:
            # A copy at once of each version, since a ReLU in place changes what went into it.
            key = id(tensor), tensor._version
            if key not in kept or kept[key][0]() is not tensor:
                kept[key] = weakref.ref(tensor), to_numpy(tensor)
            return kept[key][1]

        masks = masks_of(self, mode)
        modules = dict(self.model.named_modules())
        dropping = [p for p, m in modules.items() if isinstance(m, _MASKED) and m not in self.still]
        masked = {p: partial(self._masked, modules[p], masks) for p in dropping if masks}
        watcher = Watcher(torch.is_tensor, keep, feed, pattern, masks)
        with watched(modules, watcher, instead=masked):
            yield watcher


def _forgetful() -> torch.autograd.graph.saved_tensors_hooks:
    """Saves nothing for a backward pass; without gradients attention would take another way."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)


def record(
    model: nn.Module,
    *inputs: Any,
    out: Path | str,
    loss: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
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


def load(model: nn.Module, against: Path | str, map: Path | str) -> nn.Module:
    """Puts a record's weights into `model`, through a map: `common.parity.recording.mapped`."""
    subject = Subject(model, None, None, {}, {}, "float64")
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, array in mapped(subject, against, map).items():
            held[name].copy_(torch.from_numpy(array))
    return model


def _numpy(value: Any) -> Any:
    """Tensors in `value` as NumPy arrays, floats as float64."""

    def convert(path: str, tensor: torch.Tensor) -> Array:
        _check_dense(f"input {path}", tensor)
        return to_numpy(tensor.double() if tensor.is_floating_point() else tensor)

    return map_leaves(value, torch.is_tensor, convert)
