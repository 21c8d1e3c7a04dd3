"""What a backend is: the interface that the three frameworks stand behind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.config import Config

Array = NDArray[Any]
Arrays = dict[str, Array]


class ProcessGroup(Protocol):
    """The processes that share a run, and this one's place among them; alone, one of one.

    `local_rank` counts the processes of one machine.
    """

    rank: int
    size: int
    local_rank: int

    def sum(self, values: Array) -> Array:
        """The sum of each process's numbers, of the same shape; everyone calls it and waits.

        float64 or int64, below 2**53: one engine computes in float64 alone.
        """

    def leave(self) -> None:
        """Ends the connection, when every process has come to this."""


class Trainer(Protocol):
    """The network and its optimizer on one device.

    Where `group` has several processes, each has a trainer of the same configuration and weights,
    which all take each step together, each on its own images of the batch.

    Images are NumPy: pictures as decoded, (N, H, W, 3) uint8 RGB, which are normalised on the
    device; or (N, 3, H, W) of any float type, normalised already. Labels are (N, H, W) uint8, a
    class or 255. What comes back is NumPy in canonical names and layouts, in the run's dtype,
    float32 where that is bfloat16. H and W are free: the network pads to multiples of 32 with
    zeros, after normalisation, and crops its output back.
    """

    def __init__(
        self, config: Config, weights: Mapping[str, Array], group: Any | None = None
    ) -> None: ...

    def predict(self, images: Array) -> NDArray[np.uint8]:
        """The most likely class of each pixel (N, H, W), in eval mode."""

    def logits(self, images: Array) -> Any:
        """The logits (N, classes, H, W) in eval mode, on the device, computed to the end."""

    def step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> float:
        """One training step; returns the loss before the update, of the batch of all processes.

        A batch of `config.parts` parts is computed part by part, `config.accumulate` of them here.

        `head_rate` is the learning rate of what is not the backbone's; None: the same.
        """

    def weights(self) -> Arrays:
        """Every weight and buffer, by canonical name."""

    def momentum(self) -> Arrays:
        """SGD's momentum buffer of each weight, by canonical name; zeros before the first step."""

    def load_momentum(self, arrays: Mapping[str, Array]) -> None:
        """Sets what `momentum` returns."""


class Probe(Protocol):
    """What the laboratory sees of a trainer. Arrays are as in `Trainer`."""

    trainer: Trainer

    def __init__(self, trainer: Any) -> None: ...

    def activations(self, images: Array) -> Arrays:
        """Each of `common.network.tensors.activation_names` in eval mode.

        On the padded grid, but for `logits` (N, classes, H, W).
        """

    def traced_step(
        self, images: Array, labels: Array, rate: float, head_rate: float | None = None
    ) -> tuple[float, Arrays, Arrays]:
        """`Trainer.step`, its activations, and the gradient of each weight."""

    def layer(
        self, name: str, inputs: Sequence[Array], gradient: Array
    ) -> tuple[Array, list[Array], Arrays]:
        """One of `common.network.tensors.layer_names` alone, in train mode, forward and backward.

        `inputs` are those of `layer_sources` there, and `gradient` is the loss's gradient by the
        output, on the padded grid. Returns the output, the gradient by each input, and that by
        each weight of the layer. BatchNorm's buffers may change; nothing else does.
        """


class Backend(Protocol):
    """What each module `backends.<name>` exports."""

    Group: type[ProcessGroup]
    Trainer: type[Trainer]
    Probe: type[Probe]

    def prepare(self) -> None:
        """Turns on what the backend needs of the framework, for the whole process."""

    def join(self, seconds: float) -> ProcessGroup:
        """The processes that a launcher of the engine's own kind has started, this one among them.

        What waits for another process fails after so many seconds, where the engine can.

        Raises:
            WorkerError: they have not come together.
        """

    def select_device(self, name: str, index: int = 0) -> Any:
        """The framework's device for `auto`, `cpu` or `gpu`, of several GPUs the one of an index.

        Raises:
            InputError: `gpu`, and the framework sees none.
        """

    def versions(self) -> dict[str, str]:
        """Versions of the framework and of what it computes with, by package."""

    def threads(self) -> int:
        """How many threads compute on a CPU; with another number, sums round otherwise."""

    def to_numpy(self, tensor: Any) -> Array:
        """The framework's tensor as a contiguous array, same dtype; float32 for bfloat16."""

    def read_arrays(self, path: Path) -> tuple[Arrays, dict[str, str]]:
        """Named arrays and metadata from a file in the framework's own format.

        Nothing but tensors is unpickled. Orbax alone has metadata.

        Raises:
            InputError: the file is not one, is damaged, or holds something else.
        """

    def write_arrays(
        self, path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]
    ) -> None:
        """Named arrays to a new file in the framework's own format; metadata where it has any."""

    def imagenet_weights(self, architecture: str) -> Arrays:
        """Weights that the framework's own library has, by its names, their digest checked.

        Raises:
            InputError: it has none of this architecture, or they cannot be fetched.
        """
