"""JAX: records a run of any Flax module, NNX or Linen: what goes into every layer, comes out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from flax.core import tracers

from backends.jax.device import to_numpy, versions
from common.errors import InputError
from common.parity.masks import Masks
from common.parity.recording import Options, mapped, record_subject
from common.parity.records import Layer, Record, Source, Tensor
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
    flat,
    is_numpy,
    kind_of,
    leaves,
    map_leaves,
    settings_of,
    source_of,
)
from common.protocol import Array, Arrays

_SPATIAL = {1: "w", 2: "h w", 3: "d h w"}


def _axes(kind: str, name: str, shape: Sequence[int], outs: int) -> str:
    """The names of a tensor's axes, as far as its module's class tells them.

    A general dense layer reads and makes several axes, of which it makes `outs`.
    """
    if name == "embedding":
        return "v o"
    if kind in ("LinearGeneral", "DenseGeneral"):
        ins = len(shape) - outs
        reads = ["i"] if ins == 1 else [f"i{k + 1}" for k in range(ins)]
        makes = ["o"] if outs == 1 else [f"o{k + 1}" for k in range(outs)]
        return " ".join([*reads, *makes])
    if len(shape) == 1:
        return "o"
    if name == "kernel" and kind in ("Conv", "ConvTranspose"):
        return f"{_SPATIAL[len(shape) - 2]} i o"
    if name == "kernel" and kind in ("Linear", "Dense"):
        return "i o"
    return ""


def _channels(kind: str) -> int | None:
    return -1 if kind in ("Conv", "ConvTranspose", "BatchNorm", "GroupNorm") else None


# differs: a Flax module is a value, which is merged anew for each pass; what is seen
# while it is traced must leave the compiled function as a result.


class _Nnx:
    """An NNX module as a pure function of two trees: its parameters, and the rest."""

    def __init__(self, model: nnx.Module, dtype: str) -> None:
        self.dtype = dtype
        self.structure, *self.trees = nnx.split(model, nnx.Param, ...)
        self.collections: set[str] = set()
        self.hidden: set[str] = set()
        modules = self._modules(model)
        self.jitted = any(_unjitted(_call(type(m))) is not _call(type(m)) for m in modules.values())
        self.kinds = {path: _kind(module) for path, module in modules.items()}
        self.outs = {path: _outs(module) for path, module in modules.items()}
        self.settings = {path: settings_of(module) for path, module in modules.items()}
        self.sources = {path: _source(module) for path, module in modules.items()}

    def __call__(
        self, trees: Sequence[Any], args: Any, kwargs: Any, mode: Mode, watcher: Watcher
    ) -> tuple[Any, Any]:
        model = nnx.merge(self.structure, *trees, copy=True)
        model.train() if mode == "train" else model.eval()
        modules = self._modules(model)
        for module in modules.values():
            _set_dtype(module, self.dtype)
            own = isinstance(module, nnx.MultiHeadAttention)  # attention has one of its own
            if own or (isinstance(module, nnx.Dropout) and not watcher.masks):
                module.deterministic = True
        dropping = [path for path, m in modules.items() if isinstance(m, nnx.Dropout)]
        masks = watcher.masks
        masked = {path: partial(_masked, modules[path], masks) for path in dropping if masks}
        with watched(modules, watcher, instead=masked):
            output = model(*args, **kwargs)
        self.hidden |= watcher.hidden
        return output, nnx.split(model, nnx.Param, ...)[2]

    def _modules(self, model: nnx.Module) -> dict[str, nnx.Module]:
        found = nnx.iter_modules(model) if hasattr(nnx, "iter_modules") else model.iter_modules()
        return {".".join(map(str, path)): module for path, module in found}


@contextlib.contextmanager
def watched(
    modules: Mapping[str, nnx.Module],
    watcher: Watcher,
    method: str = "__call__",
    instead: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """While it is entered, `watcher` looks on where a `method` of one of `modules` is called.

    What is called then is it, or what stands `instead` of it. In a transform, as `nnx.scan`, the
    modules are others, which are hidden.
    """
    # differs: Python looks `__call__` up in a module's class, so it is wrapped there.
    paths = {id(module): path for path, module in modules.items()}
    active: list[int] = []

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        original = _unjitted(original) if watcher.pattern or watcher.masks else original

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            if id(module) not in paths and active:
                watcher.hidden.add(paths[active[-1]])
            # a class may call the one that it is derived from
            if id(module) not in paths or id(module) in active:
                return original(module, *args, **kwargs)
            active.append(id(module))
            try:
                path = paths[id(module)]
                run = (instead or {}).get(path) or partial(original, module)
                return watcher.call(path, run, *args, **kwargs)
            finally:
                active.remove(id(module))

        return call

    with contextlib.ExitStack() as stack:
        for kind in {type(module) for module in modules.values()}:
            if hasattr(kind, method):
                run = wrapped(getattr(kind, method))
                stack.enter_context(mock.patch.object(kind, method, run))
        yield


class _Linen:
    """A Linen module and its variables as a pure function of two trees: parameters and rest."""

    def __init__(self, model: linen.Module, dtype: str, variables: Mapping[str, Any]) -> None:
        self.dtype = dtype
        self.model, self.kinds = model, {"": _kind(model)}
        self.hidden: set[str] = set()
        self.jitted = False  # differs: a jit of Linen cannot be left out, and is told as hidden
        self.outs: dict[str, int] = {}
        self.settings: dict[str, str] = {}
        self.sources = {"": _source(model)}
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        self.trees: list[Any] = [variables.get("params", {}), rest]
        self.collections = {*rest}  # as a tree, the rest has their names in its paths

    def __call__(
        self, trees: Sequence[Any], args: Any, kwargs: Any, mode: Mode, watcher: Watcher
    ) -> tuple[Any, Any]:
        trace = tracers.current_trace()

        def look(run: Any, args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
            path = ".".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return run(*args, **kwargs)
            self.kinds[path] = _kind(context.module)
            self.outs[path] = _outs(context.module)
            self.settings[path] = settings_of(context.module)
            self.sources[path] = _source(context.module)
            inner = [m for m in vars(context.module).values() if isinstance(m, linen.Module)]
            for module in (context.module, *inner):
                _set_dtype(module, self.dtype)
            if isinstance(context.module, linen.MultiHeadDotProductAttention):
                object.__setattr__(context.module, "dropout_rate", 0.0)  # its own
            if isinstance(context.module, linen.Dropout):
                masks = watcher.masks
                run = partial(_masked, context.module, masks) if masks else _same
            if tracers.current_trace() != trace:
                self.hidden.add(path.rpartition(".")[0])
                return run(*args, **kwargs)
            return watcher.call(path, run, *args, **kwargs)

        params, rest = trees
        with linen.intercept_methods(look):
            variables = {"params": params, **rest}
            return self.model.apply(variables, *args, mutable=[*rest], **kwargs)


def _masked(
    layer: Any, masks: Masks, x: jax.Array, deterministic: bool | None = None, **_: Any
) -> jax.Array:
    """What a layer of dropout makes of its input."""
    off = layer.deterministic if deterministic is None else deterministic
    shared = {axis % x.ndim for axis in layer.broadcast_dims}
    return x if off else x * masks.next(x.shape, layer.rate, shared).astype(x.dtype)


def _call(kind: type) -> Any:
    """What a class's objects do when they are called; None where they cannot be."""
    return getattr(kind, "__call__", None)  # noqa: B004  # the class's own, not a type's


def _unjitted(call: Any) -> Any:
    """The function that `jax.jit` or `nnx.jit` made a compiled one of, or the same."""
    jits = type(jax.jit(_same)).__module__, type(nnx.jit(_same)).__module__
    return call.__wrapped__ if type(call).__module__ in jits else call


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _kind(module: Any) -> str:
    return kind_of(module, "flax", {*nnx.Module.__mro__, *linen.Module.__mro__})


def _source(module: Any) -> Source | None:
    return source_of(getattr(module, "__call__", None), "flax")  # noqa: B004  # may have none


def _outs(module: Any) -> int:
    """How many axes of what a dense layer returns are its own."""
    features = getattr(module, "out_features", getattr(module, "features", 1))
    return len(features) if isinstance(features, tuple | list) else 1


def _set_dtype(module: Any, dtype: str) -> None:
    for name in ("dtype", "param_dtype"):  # of what it computes, of a state at the start
        own = getattr(module, name, None)
        if own is not None and jnp.issubdtype(own, jnp.floating):
            object.__setattr__(module, name, jnp.dtype(dtype))


class Subject:
    """A model as a function: see `common.parity.subject.Subject`."""

    framework = "jax"
    pattern = "*"
    dropout: int | None = None

    def __init__(
        self,
        model: nnx.Module | linen.Module,
        loss: Callable[..., Any] | None,
        optimizer: optax.GradientTransformation | nnx.Optimizer | None,
        train: Mapping[str, Any] | Literal[False] | None,
        evaluate: Mapping[str, Any],
        dtype: str,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.dtype = checked_dtype(dtype)
        self.modes = modes_of(train, loss)
        self.notes: list[str] = []
        if not isinstance(model, nnx.Module | linen.Module):
            raise InputError(f"{type(model).__name__}: not a module of Flax")
        self.network: _Nnx | _Linen
        if isinstance(model, linen.Module):
            if variables is None:
                raise InputError(f"{type(model).__name__}: a Linen module needs its variables=")
            self.network = _Linen(model, dtype, variables)
        else:
            self.network = _Nnx(model, dtype)
        self.loss, self.keywords = loss, {"train": train or {}, "eval": evaluate}
        self.optimizer = getattr(optimizer, "tx", optimizer)
        if not isinstance(self.optimizer, optax.GradientTransformation | None):
            raise InputError(f"optimizer: {optimizer!r} is none of optax or NNX")
        for name, leaf in self._named(self.network.trees):
            check_real(name, jnp.issubdtype(leaf.dtype, jnp.complexfloating))
        self.trained = {name for name, _ in self._named(self.network.trees[0])}
        self.weights = {
            name: np.asarray(leaf, np.float64)
            for tree in self.network.trees
            for name, leaf in self._named(tree)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        }
        self.size = sum(array.size for array in self.weights.values())
        self.compiled: dict[Any, Any] = {}

    def versions(self) -> dict[str, str]:
        return versions()

    @property
    def layers(self) -> dict[str, Layer]:
        found = {}
        owners = {name.rpartition(".")[0]: "Module" for name in self.weights}  # some not called
        for path, kind in (owners | self.network.kinds).items():
            inside = f"{path}." if path else ""
            own = [n.removeprefix(inside) for n in self.weights if n.startswith(inside)]
            tensors = {name: inside + name for name in own if "." not in name}
            about = self.network.settings.get(path, ""), self.network.sources.get(path)
            found[path] = Layer(kind, tensors, _channels(kind), *about)
        return found

    @property
    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name, array in self.weights.items():
            owner, _, own = name.rpartition(".")
            kind, outs = self.network.kinds.get(owner, ""), self.network.outs.get(owner, 1)
            transposed = kind == "ConvTranspose" and array.ndim > 1
            flipped, axes = "h w d" if transposed else "", _axes(kind, own, array.shape, outs)
            if transposed and "transpose_kernel=True" in self.network.settings[owner]:
                flipped, axes = "", axes.replace("i o", "o i")  # as PyTorch's convolution has it
            found[name] = Tensor(array.shape, axes, name in self.trained, flipped)
        return found

    def run(
        self, weights: Arrays, call: Call, mode: Mode, seed: int, feed: Feed | None = None
    ) -> Pass:
        key = mode, tuple(feed or ())
        with _precision(self.dtype):
            if key not in self.compiled:
                self.compiled[key] = self._compile(call, mode, alone=bool(feed))
            function, seen, outputs = self.compiled[key]
            arrays = self._rounded(flat(call, is_numpy)), self._rounded(feed or {})
            found = jax.device_get(function(*self._trees(weights, seed), *arrays))
        if self.dtype == "bfloat16":  # which NumPy lacks
            found = jax.tree.map(to_numpy, found)
        self._tell_hidden()
        found["values"] = {name: found["values"][k] for name, k in seen.items()}
        found["output"] = dict(zip(outputs, found["output"], strict=True))
        return Pass(**found)

    def _tell_hidden(self) -> None:
        hidden = self.network.hidden
        for path in sorted(hidden):
            note = f"{path or 'the network'}: inside a transform, as scan or remat, nothing is seen"
            inner = any(path.startswith(f"{p}." if p else "") for p in hidden - {path})
            if note not in self.notes and not inner:
                self.notes.append(note)

    def run_compiled(self, weights: Arrays, call: Call) -> Arrays | None:
        if not self.network.jitted:
            return None

        def forward(params: Any, rest: Any, arrays: Arrays) -> Any:
            watcher = Watcher(_is_array, lambda array: None, pattern="")
            return self._call((params, rest), call, arrays, "eval", watcher)[0]

        with _precision(self.dtype):
            arrays = self._rounded(flat(call, is_numpy))
            output = jax.jit(forward)(*self._trees(weights, 0), arrays)
        return {name: to_numpy(y) for name, y in leaves(output, _is_array).items()}

    def _compile(
        self, call: Call, mode: Mode, alone: bool
    ) -> tuple[Any, dict[str, int], list[str]]:
        """A pass, compiled, and which of the values and outputs that it returns is which."""
        seen: dict[str, int] = {}
        outputs: list[str] = []

        def forward(params: Any, rest: Any, arrays: Arrays, feed: Arrays) -> tuple[Any, Any]:
            masks = masks_of(self, mode)
            watcher = Watcher(_is_array, lambda array: array, feed, self.pattern, masks)
            output, after = self._call((params, rest), call, arrays, mode, watcher)
            different = {id(array): array for array in watcher.values.values()}
            places = {key: place for place, key in enumerate(different)}
            seen.clear()
            seen.update({name: places[id(array)] for name, array in watcher.values.items()})
            told = leaves(output, _is_array)
            outputs[:] = told
            found: dict[str, Any] = {"values": [*different.values()], "output": [*told.values()]}
            if mode == "train":
                found["buffers"] = {n: a for n, a in self._named(after) if n in self.weights}
            if self.loss is None or mode == "eval":
                return None, found
            return computed_loss(self.loss, output), found

        def backward(*arguments: Any) -> dict[str, Any]:
            found: Any
            if self.loss is None or mode == "eval" or alone:
                return forward(*arguments)[1]
            (loss, found), gradients = jax.value_and_grad(forward, has_aux=True)(*arguments)
            return found | {"loss": loss, "gradients": dict(self._named(gradients))}

        return _compiled(backward, self.size), seen, outputs

    def train(self, weights: Arrays, calls: Sequence[Call], seed: int) -> tuple[Array, Arrays]:
        assert self.loss is not None and self.optimizer is not None
        loss_of, optimizer = self.loss, self.optimizer

        def forward(params: Any, rest: Any, arrays: Arrays) -> tuple[Any, Any]:
            masks = masks_of(self, "train")
            watcher = Watcher(_is_array, lambda array: None, pattern="", masks=masks)
            output, after = self._call((params, rest), calls[0], arrays, "train", watcher)
            return computed_loss(loss_of, output), after

        def step(params: Any, rest: Any, state: Any, arrays: Arrays) -> tuple[Any, ...]:
            found = jax.value_and_grad(forward, has_aux=True)(params, rest, arrays)
            (loss, rest), gradients = found
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), rest, state, loss

        with _precision(self.dtype):
            params, rest = self._trees(weights, seed)
            state, losses, compiled = optimizer.init(params), [], _compiled(step, self.size)
            for call in calls:
                arrays = self._rounded(flat(call, is_numpy))
                params, rest, state, loss = compiled(params, rest, state, arrays)
                losses.append(float(loss))
            named = [*self._named(params), *self._named(rest)]
            final = {name: to_numpy(array) for name, array in named if name in self.weights}
        return np.array(losses), final

    def _rounded(self, arrays: Mapping[str, Array]) -> Arrays:
        """Floats in the dtype."""
        floats = {name for name, array in arrays.items() if array.dtype.kind == "f"}
        return {n: a.astype(jnp.dtype(self.dtype)) if n in floats else a for n, a in arrays.items()}

    def _trees(self, weights: Arrays, seed: int) -> list[Any]:
        """The weights as the module's trees; keys of random numbers are those of `seed`."""

        def value(path: Any, leaf: Any) -> Any:
            if self._name(path) in weights:
                return jnp.asarray(weights[self._name(path)], self.dtype)
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return jax.random.fold_in(leaf, seed) if is_key else leaf

        return [jax.tree_util.tree_map_with_path(value, tree) for tree in self.network.trees]

    def _name(self, path: Sequence[Any]) -> str:
        """`conv.kernel` of a leaf's path in a tree of variables."""
        keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
        keys = [key for key in keys if key not in self.network.collections]
        return ".".join(keys[:-1] if keys[-1] == "value" else keys)

    def _named(self, tree: Any) -> list[tuple[str, Any]]:
        found = jax.tree_util.tree_flatten_with_path(tree)[0]
        return [(self._name(path), leaf) for path, leaf in found]

    def _call(
        self, trees: Sequence[Any], call: Call, arrays: Arrays, mode: Mode, watcher: Watcher
    ) -> tuple[Any, Any]:
        args, kwargs = map_leaves(call, is_numpy, lambda path, _: arrays[path])
        return self.network(trees, args, {**kwargs, **self.keywords[mode]}, mode, watcher)


def record(
    model: nnx.Module | linen.Module,
    *inputs: Any,
    out: Path | str,
    loss: Callable[..., Any] | None = None,
    optimizer: optax.GradientTransformation | nnx.Optimizer | None = None,
    steps: int | Sequence[Any] = 1,
    keywords: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | Literal[False] | None = None,
    eval: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    generic: int | None = None,
    against: Path | str | None = None,
    map: Path | str | None = None,
    keep: str = "*",
    weights: bool = True,
    dropout: int | None = None,
    dtype: str = "float64",
) -> Record:
    """Records a run of `model` in `dtype`: see `common.parity.recording.record_subject`."""
    subject = Subject(model, loss, optimizer, train, eval or {}, dtype, variables)
    called = _numpy((inputs, keywords or {}, steps))
    options = Options(
        out, optimizer is not None, generic, against, map, keep, weights, dropout, dtype
    )
    return record_subject(subject, called, options)


def load(
    model: nnx.Module | linen.Module,
    against: Path | str,
    map: Path | str,
    variables: Mapping[str, Any] | None = None,
) -> Any:
    """Puts a record's weights into `model`, through a map: `common.parity.recording.mapped`.

    A Linen module has no weights: what is returned are its variables.
    """
    subject = Subject(model, None, None, {}, {}, "float64", variables)
    arrays = mapped(subject, against, map)

    def value(path: Any, leaf: Any) -> Any:
        name = subject._name(path)
        return jnp.asarray(arrays[name], leaf.dtype) if name in arrays else leaf

    params, rest = (jax.tree_util.tree_map_with_path(value, t) for t in subject.network.trees)
    if isinstance(model, linen.Module):
        return {"params": params, **rest}
    nnx.update(model, params, rest)
    return model


def _numpy(value: Any) -> Any:
    """JAX's arrays in `value` as NumPy's, floats as float64."""

    def convert(_: str, array: jax.Array) -> Array:
        floats = jnp.issubdtype(array.dtype, jnp.floating)
        return np.asarray(array, np.float64 if floats else None)

    return map_leaves(value, _is_array, convert)


def _is_array(value: Any) -> bool:
    """Whether it is an array of JAX."""
    return isinstance(value, jax.Array)


LARGE = 10**6
"""So many weights make LLVM's optimizations pay for a few runs; with fewer they take four times as
long as they save. A ResNet-50's record takes a quarter of the time with them."""


def _compiled(function: Callable[..., Any], size: int) -> Any:
    """For a few runs of a network of so many weights."""
    few = size < LARGE and jax.default_backend() == "cpu"
    return jax.jit(
        function, compiler_options={"xla_backend_optimization_level": 0} if few else None
    )


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """The 64-bit types, or none, while it is entered."""
    # JAX has moved it, and what it is now cannot be asked whether it is true
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(dtype == "float64"):
        yield
