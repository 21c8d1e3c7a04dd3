"""Looking at a network from outside: what goes into modules and comes out of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock


@contextlib.contextmanager
def watch(
    modules: Mapping[str, Any], method: str, keep: Callable[[Any], Any] = lambda y: y
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """While it is entered, each call of a module leaves its first argument and its result.

    `modules` are looked at by name, and each framework's `method` is what a call of a module runs:
    `forward` in PyTorch and Gluon, `__call__` in Flax. It is wrapped in the modules' classes, where
    Python looks it up, and the modules themselves are left as they are. Of several calls the last
    one counts. `keep` makes of a result what is kept: a copy, where it may change later.
    """
    names = {id(module): name for name, module in modules.items()}
    seen: dict[str, tuple[Any, Any]] = {}

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: Any, x: Any, *more: Any) -> Any:
            y = original(module, x, *more)
            if id(module) in names:
                seen[names[id(module)]] = (x, keep(y))
            return y

        return call

    with contextlib.ExitStack() as stack:
        for kind in {type(module) for module in modules.values()}:
            stack.enter_context(mock.patch.object(kind, method, wrapped(getattr(kind, method))))
        yield seen
