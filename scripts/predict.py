"""Segments images: a mask and an overlay for each."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from common.config import Config, Inference
from common.data.colours import Palette
from common.data.drawing import mask_image, overlay
from common.data.images import MAX_PIXELS, find_images, read_image, set_max_pixels
from common.errors import InputError, listed
from common.evaluation.ahead import map_ahead
from common.files import write_whole, writing
from scripts.shared import cli
from scripts.shared.evaluation import NUMBERS, build_predictor
from scripts.shared.outputs import JSON, PNG, check_places
from scripts.shared.weights_files import load_network

Picture = NDArray[np.uint8]
"""An image (H, W, 3), or a mask (H, W)."""

app = cli.new_app()

_SHOWN = 10
"""So many results are printed; all are in the JSON."""


def outputs(folder: Path, image: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay of an image go."""
    return folder / f"{image.stem}.png", folder / f"{image.stem}.overlay.png"


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


def _read(path: Path) -> Picture | InputError:
    try:
        return read_image(path)
    except InputError as error:
        return error


def save(
    path: Path,
    image: Picture,
    mask: Picture,
    folder: Path,
    class_names: tuple[str, ...],
    palette: Palette,
) -> dict[str, Any]:
    """Writes the palette mask and the overlay, each whole; what the JSON says of them.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    mask_path, overlay_path = outputs(folder, path)
    with writing(folder, "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    picture = overlay(image, mask, class_names, palette)
    write_whole(mask_path, lambda new: mask_image(mask, palette).save(new, format="PNG"))
    # level 6, Pillow's own, takes four times as long for a file smaller by a tenth
    write_whole(overlay_path, lambda new: picture.save(new, format="PNG", compress_level=1))
    labels, counts = np.unique(mask, return_counts=True)
    pixels = {class_names[k]: int(n) for k, n in zip(labels, counts, strict=True)}
    item = {"image": str(path), "mask": str(mask_path), "overlay": str(overlay_path)}
    return item | {"pixels": pixels}


def _print(results: list[dict[str, Any]], folder: Path) -> None:
    done = [item for item in results if "mask" in item]
    for item in done[:_SHOWN]:
        cli.say(f"{item['mask']}: {', '.join(item['pixels'])}")
    if len(done) > _SHOWN:
        cli.say(f"... and {len(done) - _SHOWN} more")
    if done:
        cli.say(f"{len(done)} of {len(results)} images done, in {folder}")


@app.command()
def predict(
    backend: cli.BackendOption,
    weights: cli.WeightsOption,
    out: Annotated[Path, typer.Option(help="The folder for the pictures; made if needed.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images of any size, or folders.")
    ],
    device: cli.DeviceOption = Config.device,
    dtype: cli.DtypeOption = Config.dtype,
    flip: cli.FlipOption = Inference.flip,
    scales: cli.ScalesOption = None,
    tile: cli.TileOption = Inference.tile,
    overlap: cli.OverlapOption = Inference.overlap,
    palette: Annotated[
        Palette,
        typer.Option(help="The colours: Pascal VOC's, or some that are told apart more easily."),
    ] = Palette.voc,
    max_pixels: cli.MaxPixelsOption = MAX_PIXELS,
    json_path: cli.JsonOption = None,
    force: cli.ForceOption = False,
) -> None:
    """Segment images: a palette mask of the image's size, and an overlay with a legend.

    An image that cannot be read is reported at the end, with exit code 2; the rest are done.
    """
    set_max_pixels(max_pixels)
    options = Inference(flip, tuple(scales or Inference.scales), tile, overlap)
    given_files = [find_images(given) if given.is_dir() else ([given], []) for given in images]
    paths = [path for found, _ in given_files for path in found]
    left_out = [path for _, others in given_files for path in others]
    _check_outputs(out, paths)
    pictures = [(path, PNG) for image in paths for path in outputs(out, image)]
    check_places((json_path, JSON), *pictures, reads=[weights, *paths], made=out, force=force)
    start = load_network(weights)
    if left_out:
        files = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
        cli.note(f"{files} left out, no pictures by their endings: {listed(left_out)}")
    trainer = build_predictor(backend, start, options, device=device, dtype=dtype)

    def mask_of(image: Picture | InputError) -> Picture | None:
        return None if isinstance(image, InputError) else trainer.predict(image[None])[0]

    def finish(found: tuple[Path, Picture | InputError, Picture | None]) -> dict[str, Any]:
        path, image, mask = found
        if isinstance(image, InputError):
            return {"image": str(path), "error": str(image).removeprefix(f"{path}: ")}
        assert mask is not None
        return save(path, image, mask, out, start.class_names, palette)

    # the next images are decoded, and the pictures before are written, while one is predicted
    read = zip(paths, map_ahead(_read, paths), strict=True)
    masked = ((path, image, mask_of(image)) for path, image in read)
    results: list[dict[str, Any]] = []
    with cli.image_progress(f"predict {backend}", len(paths)) as show:
        for item in map_ahead(finish, masked):
            results.append(item)
            show(len(results))
    _print(results, out)
    broken = [item for item in results if "error" in item]
    for item in broken:
        cli.report(f"{item['image']}: {item['error']}")
    cli.write_json(json_path, results)
    if broken:
        raise typer.Exit(2)


if __name__ == "__main__":
    cli.main(app, NUMBERS)
