"""A report as one HTML page, to be opened from a file: nothing is loaded from elsewhere.

What `common.parity.compare` found, or `scripts.parity`, is embedded as JSON; the script in
`report.html` draws it. Here is only what a browser cannot do: the masks become pictures.
"""

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.config import VOID, Head
from common.data.drawing import mask_image
from common.data.voc import voc_palette
from common.files import write_whole
from common.network.tensors import ARCHITECTURES, layer_names
from common.parity.report import finite
from common.weights.checkpoint import default_class_names

Arrays = Mapping[str, NDArray[Any]]

TEMPLATE = Path(__file__).with_name("report.html")

_SAME, _DIFFERS = (226, 228, 231), (154, 52, 18)


def _png(picture: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _first_mask(arrays: Arrays) -> NDArray[np.uint8] | None:
    """The class map (H, W) of the first image; None where there is none that can be drawn."""
    masks = arrays.get("eval/mask")
    if masks is None or masks.ndim != 3 or not masks.size or masks.dtype.kind not in "ui":
        return None
    first: NDArray[np.uint8] = np.ascontiguousarray(masks[0]).astype(np.uint8)
    return first


def _classes(masks: list[NDArray[np.uint8]], names: tuple[str, ...]) -> list[dict[str, str]]:
    """Name and colour of every class found, for the legend."""
    found = sorted({int(label) for mask in masks for label in np.unique(mask)})
    told = {label: names[label] for label in found if label < len(names)}
    told |= {VOID: "void"} if VOID in found else {}
    colours = voc_palette()
    return [
        {"name": told.get(k, f"class_{k}"), "colour": f"#{bytes(colours[k].tolist()).hex()}"}
        for k in found
    ]


def masks_of(comparison: Mapping[str, Any], arrays: Mapping[str, Arrays]) -> dict[str, Any]:
    """The masks of the traces of a comparison, the reference's first, and where each parts from it.

    Where the reference has none, from the first that has one. Empty where no trace has one.
    """
    reference = comparison.get("reference", {}).get("label")
    labels = [trace["label"] for trace in comparison.get("traces", [])]
    labels.sort(key=lambda label: label != reference)
    masks = {label: _first_mask(arrays.get(label, {})) for label in labels}
    drawn = {label: mask for label, mask in masks.items() if mask is not None}
    if not drawn:
        return {}
    truth = next(iter(drawn.values()))
    pictures = []
    for label, mask in drawn.items():
        height, width = mask.shape
        picture = {"label": label, "width": width, "height": height, "mask": _png(mask_image(mask))}
        if mask is not truth and mask.shape == truth.shape:
            differs = mask != truth
            difference = Image.fromarray(differs.astype(np.uint8))
            difference.putpalette([*_SAME, *_DIFFERS])
            picture |= {"differing": int(differs.sum()), "difference": _png(difference)}
        pictures.append(picture)
    told = {str(trace.get("num_classes", "")) for trace in comparison.get("traces", [])}
    count = told.pop() if len(told) == 1 else ""
    names = default_class_names(int(count)) if count.isdigit() else ()
    return {"pictures": pictures, "classes": _classes(list(drawn.values()), names)}


def embed(data: Any) -> str:
    """`data` as JSON that can stand inside a script element, whatever strings it holds.

    Both `</script>` and `<!--`, which would end or change the element, begin with `<`.
    """
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _title(report: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Who is held against whom."""
    if "reference" not in comparison:
        return ", ".join(report.get("backends", {})) or "nothing"
    reference = comparison["reference"]["label"]
    others = [t["label"] for t in comparison.get("traces", []) if t["label"] != reference]
    return f"{', '.join(others) or 'nothing'} against {reference}"


def page(report: Mapping[str, Any], arrays: Mapping[str, Arrays] | None = None) -> str:
    """The page of a report: `Report.to_dict()`, or what `scripts.parity` found.

    `arrays` holds the traces' values by label; of these, `eval/mask` is drawn.
    """
    if "comparison" not in report and "tensors" in report:
        whole = {key: report.get(key) for key in ("passed", "verdict")}
        report = whole | {"comparison": report}
    passed, comparison = bool(report.get("passed")), report.get("comparison") or {}
    first: Mapping[str, Any] = next(
        (t for t in comparison.get("traces", []) if "architecture" in t), {}
    )
    any_network = any("network" in t for t in comparison.get("traces", []))
    network = first.get("architecture", ARCHITECTURES[0]), first.get("head", Head.fcn32s)
    parts = {
        "title": html.escape(_title(report, comparison)),
        "outcome": "passed" if passed else "failed",
        "sign": "\N{CHECK MARK}" if passed else "\N{BALLOT X}",
        "word": "Passed" if passed else "Failed",
        "verdict": html.escape(str(report.get("verdict") or "")),
        "data": embed(
            {
                "report": report,
                "layers": comparison["layers"] if any_network else layer_names(*network),
                "masks": masks_of(comparison, arrays or {}),
            }
        ),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    # in one pass: a label that looks like a placeholder is left alone
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def write_html(
    path: Path, report: Mapping[str, Any], arrays: Mapping[str, Arrays] | None = None
) -> None:
    """Writes the page of a report, whole or not at all; `page` says of what.

    Raises:
        InputError: the file cannot be written.
    """
    # a label that is a file name may hold bytes that are no text
    text = page(report, arrays).encode("utf-8", errors="replace")
    write_whole(path, lambda temporary: temporary.write_bytes(text))
