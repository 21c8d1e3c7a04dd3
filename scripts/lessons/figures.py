"""The figures of the lessons: one function each, for a light page and for a dark one."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backends import BACKENDS
from common.config import VOID
from common.data.voc import voc_palette
from common.network.bilinear import bilinear_kernel
from scripts.shared.plots import smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"torch": "PyTorch", "mxnet": "MXNet Gluon", "jax": "JAX"}
_LINES = {"torch": "-", "mxnet": "--", "jax": ":"}
"""Told apart without colour too."""


class Scheme:
    """The colours of a figure; `name` ends the name of its file."""

    def __init__(self, name: str, ink: str, dim: str, colours: tuple[str, str, str]) -> None:
        self.name, self.ink, self.dim = name, ink, dim
        self.colours = dict(zip(BACKENDS, colours, strict=True))

    def line(self, backend: str) -> dict[str, Any]:
        """How a backend's line is drawn."""
        return {"color": self.colours[backend], "linestyle": _LINES[backend]}

    def settings(self) -> Any:
        """Matplotlib's."""
        inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
        return {
            **dict.fromkeys(inked, self.ink),
            "axes.edgecolor": self.dim,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
            "axes.titlesize": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "svg.hashsalt": "lessons",  # the same file from the same figure
        }


SCHEMES = (
    Scheme("light", "#22262a", "#8a9097", ("#b3410e", "#0b6a8f", "#4f7a1c")),
    Scheme("dark", "#e4e6e8", "#7b838b", ("#f4976c", "#6cc3e8", "#a8cf6b")),
)
"""Colours of backends are those of `style.css`."""

Found = Mapping[str, Any]


def bilinear(figure: "Figure", scheme: Scheme, _runs: Found) -> None:
    """The kernel of stride 32, and what three input pixels add up to along a line."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    kernel = bilinear_kernel(64)
    left.imshow(kernel, cmap="gray", vmin=0, vmax=1)
    left.set(title="kernel, 64 x 64", xticks=(0, 63), yticks=(0, 63))
    along = kernel[31] / kernel[31].max()
    total = np.zeros(128)
    for k, value in enumerate((1.0, 0.25, 0.75)):
        place = slice(32 * k, 32 * k + 64)
        right.plot(np.arange(128)[place], value * along, color=scheme.dim, linewidth=1)
        total[place] += value * along
    right.plot(total, color=scheme.colours["torch"])
    right.set(title="input 1, 0.25, 0.75: the sum of three kernels", xlabel="output pixel")


def stages(figure: "Figure", _scheme: Scheme, runs: Found) -> None:
    """The mean over the channels after each stage."""
    shown = runs["stages"]
    every = figure.subplots(2, (len(shown) + 1) // 2).ravel()
    for axes, stage in zip(every, shown, strict=False):
        picture = _picture(stage["picture"])
        if stage["name"] == "answer":
            picture = voc_palette()[picture]
        axes.imshow(picture, cmap="gray", interpolation="nearest")
        size = " x ".join(map(str, stage["shape"]))
        axes.set_title(f"{stage['name']}\n{size}")
    for axes in every:
        axes.set_axis_off()


def void(figure: "Figure", _scheme: Scheme, runs: Found) -> None:
    """What the network answers where the label is void."""
    image, *_, answer = (_picture(stage["picture"]) for stage in runs["stages"])
    label = _picture(runs["label"])
    palette = voc_palette()
    palette[VOID] = 255
    inside = palette[answer]
    inside[label != VOID] = 128
    pictures = {
        "image": image,
        "label, void in white": palette[label],
        "answer": palette[answer],
        "answer, in void alone": inside,
    }
    every = figure.subplots(2, 2).ravel()
    for axes, (title, picture) in zip(every, pictures.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()


def depth(figure: "Figure", scheme: Scheme, runs: Found) -> None:
    """Error against depth in both types."""
    axes = figure.subplots()
    found = runs["depth"]
    for dtype in ("float32", "float64"):
        for backend, errors in found[dtype].items():
            label = LABELS[backend] if dtype == "float32" else None
            style = scheme.line(backend)
            axes.plot(found["layers"], errors, label=label, **style)
        place = len(found["layers"]) - 1, max(last for *_, last in found[dtype].values())
        axes.annotate(dtype, place, (0, 6), textcoords="offset points", ha="right")
    axes.set(yscale="log", ylabel="error, from PyTorch's float64", ylim=(1e-17, 1e-4))
    axes.tick_params(axis="x", rotation=45)
    axes.legend(loc="center left")


def losses(figure: "Figure", scheme: Scheme, runs: Found) -> None:
    """The losses of the three on top of each other."""
    axes = figure.subplots()
    for backend, values in runs["losses"].items():
        style = scheme.line(backend)
        axes.plot(smooth(values, 10), label=LABELS[backend], **style)
    axes.set(xlabel="step", ylabel="loss, mean of 10 steps", ylim=(0, None))
    axes.legend()


class Drawing(NamedTuple):
    """What draws a figure, its size in inches, and what it shows, for who cannot see it."""

    paint: Callable[["Figure", Scheme, Found], None]
    size: tuple[float, float]
    alt: str


FIGURES: Mapping[str, Drawing] = {
    "bilinear_kernel": Drawing(
        bilinear,
        (7.2, 2.8),
        "Left, the kernel: a pyramid, bright in the middle. Right, three triangles along a line,"
        " and their sum, which runs straight from one input value to the next.",
    ),
    "stages": Drawing(
        stages,
        (7.2, 3.6),
        "An image of shapes, the mean feature map after the stem and after each of four stages,"
        " each half as large as the one before, and the classes that the network answers.",
    ),
    "void": Drawing(
        void,
        (6.0, 4.9),
        "An image of shapes; its label, in which a line of void surrounds each shape; the network's"
        " answer, a class for every pixel; and of this answer the void pixels alone, which take the"
        " class of the shape or of the background.",
    ),
    "depth": Drawing(
        depth,
        (7.2, 3.4),
        "The relative error of each layer from the stem to the logits, on a logarithmic scale:"
        " about 1e-7 and slowly rising in float32, about 1e-15 in float64.",
    ),
    "losses": Drawing(
        losses,
        (7.2, 3.2),
        "The training losses of PyTorch, MXNet and JAX fall together, and part on the way.",
    ),
}
"""By the name that a lesson calls it."""


def _picture(text: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def draw(name: str, folder: Path, runs: Found) -> None:
    """Writes `<name>-light.svg` and `<name>-dark.svg`, on a transparent ground."""
    import matplotlib  # here: half of what a command takes to start
    from matplotlib.figure import Figure

    drawing = FIGURES[name]
    for scheme in SCHEMES:
        with matplotlib.rc_context(scheme.settings()):
            figure = Figure(figsize=drawing.size, layout="constrained")
            figure.patch.set_alpha(0)
            drawing.paint(figure, scheme, runs)
            for axes in figure.axes:
                axes.patch.set_alpha(0)
            path = folder / f"{name}-{scheme.name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None})
