"""What a framework's recorder makes of a user's model: a function from weights and inputs to every
value on the way, see `common.parity.recording`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.errors import InputError
from common.parity.masks import Masks
from common.parity.records import Layer, Tensor
from common.parity.tolerances import EPS
from common.parity.watching import Feed
from common.protocol import Array, Arrays

Mode = Literal["eval", "train"]


@dataclass
class Pass:
    """One pass through a network.

    `values` are in the order in which they were made: `conv1:in`, `conv1:out`, ... The same array
    may stand under several names. `output` are the leaves of what the network returned. In train
    mode: `buffers` afterwards and, with a loss, `loss` and `gradients`, None of a weight that has
    none.
    """

    values: Arrays
    output: Arrays
    loss: Array | None = None
    gradients: dict[str, Array | None] = field(default_factory=dict)
    buffers: Arrays = field(default_factory=dict)


Call = tuple[Sequence[Any], Mapping[str, Any]]
"""Arguments of a call, by position and by name; arrays in them are NumPy's."""


class Subject(Protocol):
    """A user's model as a function: it keeps nothing from one call to the next."""

    framework: str
    weights: Arrays
    notes: list[str]
    pattern: str
    """Which layers are looked at."""
    dropout: int | None
    """The seed of the masks of dropout; without one it is off."""
    dtype: str
    """What it computes in; weights, inputs and feeds come in float64 and are rounded to it."""
    modes: tuple[Mode, ...]
    """In which it is run."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    @property
    def layers(self) -> Mapping[str, Layer]: ...

    def versions(self) -> dict[str, str]: ...

    def run(
        self, weights: Arrays, call: Call, mode: Mode, seed: int, feed: Feed | None = None
    ) -> Pass:
        """A pass in `mode`; in train mode with the loss's gradients, where there is a loss."""

    def run_compiled(self, weights: Arrays, call: Call) -> Arrays | None:
        """What the network returns in eval mode, called as the user has compiled it.

        None where nothing of it is compiled.
        """

    def train(self, weights: Arrays, calls: Sequence[Call], seed: int) -> tuple[Array, Arrays]:
        """The user's optimizer over `calls`: the loss before each step, all tensors at the end."""


def computed_loss(loss: Callable[..., Any], output: Any) -> Any:
    """What the user's loss makes of what the network returns: one value.

    Raises:
        InputError: it cannot be computed, or is more than one.
    """
    try:
        value = loss(output)
    except Exception as error:
        raise InputError(
            f"loss: cannot be computed of what the model returns: {in_a_line(error)}"
        ) from error
    if not hasattr(value, "shape"):
        raise InputError(f"loss: makes {type(value).__name__}, not an array of one value")
    if math.prod(value.shape) != 1:
        raise InputError(f"loss: makes values of shape {tuple(value.shape)}, not one")
    return value


def check_real(name: str, is_complex: bool) -> None:
    """That a tensor holds real numbers.

    Raises:
        InputError: it does not.
    """
    if is_complex:
        raise InputError(
            f"{name}: complex; a record holds real numbers, its two parts for instance"
        )


def checked_dtype(dtype: str) -> str:
    """What to compute in.

    Raises:
        InputError: it is none that records are made in.
    """
    if dtype not in EPS:
        raise InputError(f"dtype {dtype}: records are made in {', '.join(EPS)}")
    return dtype


def modes_of(train: object, loss: object) -> tuple[Mode, ...]:
    """In which modes a network is run: eval alone, if that is asked for.

    Raises:
        InputError: a loss is asked for, too.
    """
    if train is False and loss is not None:
        raise InputError("loss: is one of train mode, and train=False leaves that out")
    return ("eval",) if train is False else ("eval", "train")


def masks_of(subject: Subject, mode: Mode) -> Masks | None:
    """The masks of dropout of one pass; None where it is off."""
    if subject.dropout is None or mode == "eval":
        return None
    return Masks(subject.dropout, subject.layers, subject.tensors)


def in_a_line(error: Exception) -> str:
    """What went wrong, in one line."""
    lines = (str(error).strip() or "no word why").splitlines()
    told = lines[-1 if lines[0].startswith("Traceback") else 0].strip()  # MXNet tells C++'s
    return f"{type(error).__name__}: {told}"
