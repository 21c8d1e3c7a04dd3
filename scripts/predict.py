"""Segments images: a mask and an overlay for each."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from backends import load_backend
from common.checkpoint import read_weights, write_whole
from common.config import Config
from common.dataset import read_image
from common.errors import InputError
from common.pictures import overlay, save_mask
from common.transforms import normalize
from scripts.cli import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    WeightsOption,
    console,
    main,
    new_app,
    progress,
    write_json,
)
from scripts.evaluate import config_of

app = new_app()


def outputs(folder: Path, image: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay of an image go."""
    return folder / f"{image.stem}.png", folder / f"{image.stem}.overlay.png"


def save_prediction(
    mask_path: Path,
    overlay_path: Path,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    class_names: tuple[str, ...],
) -> None:
    """Writes the palette mask and the overlay, each whole."""
    picture = overlay(image, mask, class_names)
    write_whole(mask_path, lambda path: save_mask(path, mask))
    write_whole(overlay_path, lambda path: picture.save(path, format="PNG"))


def _check_outputs(folder: Path, images: list[Path]) -> None:
    """Refuses what would overwrite an image or another image's pictures."""
    taken = {path.resolve(): path for path in images}
    for image in images:
        for path in outputs(folder, image):
            if path.resolve() in taken:
                raise InputError(
                    f"{image}: its {path} would overwrite that of {taken[path.resolve()]}"
                )
            taken[path.resolve()] = image


@app.command()
def predict(
    backend: BackendOption,
    weights: WeightsOption,
    out: Annotated[Path, typer.Option(help="The folder for the pictures; made if needed.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images of any size.")],
    device: DeviceOption = Config.device,
    dtype: DtypeOption = Config.dtype,
    json_path: JsonOption = None,
) -> None:
    """Segment images: a palette mask of the image's size, and an overlay with a legend."""
    _check_outputs(out, images)
    start = read_weights(weights)
    for path in images:  # all of them, before anything is written
        read_image(path)
    config = config_of(start, device=device, dtype=dtype)
    trainer = load_backend(backend).Trainer(config, start.arrays)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from error
    found: list[dict[str, Any]] = []
    with progress(f"predict {backend}") as bar:
        for path in bar.track(images, task_id=bar.add_task("", total=len(images), status="")):
            image = read_image(path)
            mask = trainer.predict(normalize(image, config)[None])[0]
            mask_path, overlay_path = outputs(out, path)
            save_prediction(mask_path, overlay_path, image, mask, start.class_names)
            labels, counts = np.unique(mask, return_counts=True)
            pixels = {start.class_names[k]: int(n) for k, n in zip(labels, counts, strict=True)}
            item = {"image": str(path), "mask": str(mask_path), "overlay": str(overlay_path)}
            found.append(item | {"pixels": pixels})
    for item in found:
        console.print(f"{item['mask']}: {', '.join(item['pixels'])}", soft_wrap=True)
    write_json(json_path, found)


if __name__ == "__main__":
    main(app)
