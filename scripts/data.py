"""`python -m scripts.data`: makes data to train on or to compare on, checks a folder."""

import re
from pathlib import Path
from typing import Annotated

import rich.table
import typer

from common.config import VOID, Config
from common.data.dataset import Survey, contents, keep_manifest, survey
from common.data.download import is_url
from common.data.formats import Format
from common.data.importing import SHEET as IMPORT_SHEET
from common.data.importing import import_data
from common.data.manifest import MANIFEST
from common.data.shapes import SHAPES_TRAIN, SHAPES_VAL, write_shapes
from common.data.voc2012 import DOWNLOAD, SHEET, VOC2012_MD5, VOC2012_URL, prepare
from common.parity.settings import SETTINGS, write_settings
from common.parity.traces import write_generic
from scripts.shared import cli
from scripts.shared.outputs import JSON, check_places
from scripts.shared.weights_files import SAFETENSORS

app = cli.new_app()

VocFolder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="JPEGImages and the rest, or what holds VOCdevkit."),
]


@app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Data sets in Pascal VOC's layout, and what traces are made from."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    train: Annotated[int, typer.Option(min=1, help="Training pairs.")] = SHAPES_TRAIN,
    val: Annotated[int, typer.Option(min=1, help="Validation pairs.")] = SHAPES_VAL,
    seed: Annotated[int, typer.Option(min=0, help="What the pairs are drawn from.")] = 0,
) -> None:
    """Makes a synthetic set: circles, squares, rings and the like."""
    with cli.console.status("drawing"):
        write_shapes(folder, train, val, seed)
    cli.say(f"{folder}: {train} training and {val} validation pairs")


@app.command()
def generic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    architecture: cli.ArchitectureOption = Config.architecture,
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 2,
    size: Annotated[
        tuple[int, int], typer.Option(min=1, metavar="H W", help="The images' height and width.")
    ] = (64, 96),
    seed: Annotated[int, typer.Option(min=0, help="What the values are drawn from.")] = 0,
    hard: Annotated[
        bool, typer.Option("--hard", help="Those that show what ordinary data hide, see above.")
    ] = False,
    force: cli.ForceOption = False,
) -> None:
    """Makes generic weights and batches to trace.

    With --hard DIR is new or empty, and gets a folder for each setting that `parity --hard` runs:
    thin networks, ties, 150 classes, portraits, void batches and the like, in sizes of their own.
    settings.json says what each shows and with which options `trace` runs it.
    """
    if hard:
        write_settings(folder)
        for name, setting in SETTINGS.items():
            cli.say(f"{folder / name}: {setting.why}")
        return
    weights, batches = (folder / f"{name}.safetensors" for name in "WB")
    places = (weights, SAFETENSORS), (batches, SAFETENSORS)
    check_places(*places, made=folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    write_generic(weights, batches, architecture, steps, batch_size, size, seed)
    cli.say(f"{weights}: generic weights of {architecture}")
    cli.say(f"{batches}: {steps} batches of {batch_size} {size[0]}x{size[1]}")


@app.command()
def check(folder: VocFolder, json: cli.JsonOption = None, force: cli.ForceOption = False) -> None:
    """Reads every pair and lists every fault.

    Exit code 2 if there is one. Where the folder has a manifest.json, each file is held against it.
    """
    check_places((json, JSON), reads=contents(folder), force=force)
    with cli.console.status("reading"):
        found = survey(folder)
    _tell(found, json)
    cli.say("no faults")


@app.command()
def manifest(
    folder: VocFolder, json: cli.JsonOption = None, force: cli.ForceOption = False
) -> None:
    """Checks a folder and writes manifest.json.

    By it a changed file is found from then on. It goes into the folder that holds JPEGImages. One
    that is there is checked and stays.
    """
    check_places((json, JSON), reads=contents(folder), force=force)
    with cli.console.status("reading"):
        found, made = keep_manifest(folder)
    _tell(found, json)
    _tell_manifest(found, made)


@app.command("import")
def import_(
    kind: Annotated[Format, typer.Argument(metavar="FORMAT", help=f"{', '.join(Format)}.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder that is there.")],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="A folder that is new or empty.")],
    seed: Annotated[
        int, typer.Option(min=0, help="Draws a fifth for val, where SRC has no lists.")
    ] = 0,
    json: cli.JsonOption = None,
) -> None:
    """Makes our layout of another program's export.

    What is made is checked, and a sheet of some pairs is drawn.

    cvat: "Segmentation mask 1.1" with images. labelme: .json files beside their images, or the
    folder that labelme2voc.py makes. roboflow: "Semantic Segmentation Masks". cityscapes:
    leftImg8bit and gtFine, the 19 classes that count. coco, coco-panoptic: annotations/instances_*
    and panoptic_*.json, or a JSON file or Roboflow's beside their images. folders: images and
    masks, with classes.csv (name,red,green,blue), labelmap.txt or classes.txt.
    """
    with cli.console.status("importing"):
        found = import_data(kind, source, folder, seed)
    _tell(found, json)
    cli.say(f"{found.root / IMPORT_SHEET}: some pairs to look at")


@app.command()
def voc2012(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TAR|URL|DIR",
            help=f"The archive, its address ({VOC2012_URL}), or a folder where it is unpacked.",
        ),
    ],
    md5: Annotated[
        str, typer.Option(metavar="HEX", help="The archive's md5; a folder has none.")
    ] = VOC2012_MD5,
    json: cli.JsonOption = None,
    force: cli.ForceOption = False,
) -> None:
    """Prepares Pascal VOC2012: segmentation's pairs, checked.

    They go into DIR/VOCdevkit/VOC2012. The images without a mask, detection's annotations and SBD
    are not unpacked. Stopped at any moment, it goes on when it is called again; a preparation that
    is complete is checked and left alone. Where that finds a damaged file, remove manifest.json and
    call it again.

    A download is kept as DIR/download.tar. With DIR itself as --from, only its manifest is made.
    """
    if not re.fullmatch("[0-9a-fA-F]{32}", md5):
        cli.fail(f"--md5 {md5}: not an md5, which has 32 hexadecimal digits")
    read = contents(folder) + ([] if is_url(source) else [Path(source)])
    check_places((json, JSON), reads=read, made=folder, force=force)
    with cli.progress("VOC2012") as bar:
        task = bar.add_task("", total=None, status="reading")
        found, made = prepare(
            folder,
            source,
            md5,
            lambda what, done, total: bar.update(task, completed=done, total=total, status=what),
        )
    _tell(found, json)
    _tell_manifest(found, made)
    if made and (folder / SHEET).exists():
        cli.say(
            "images without a mask and detection's annotations were left out; SBD is not part of it"
        )
        cli.say(f"{folder / SHEET}: some pairs to look at")
    if made and (folder / DOWNLOAD).exists():
        cli.say(f"{folder / DOWNLOAD}: kept; nothing needs it any more")


def _tell_manifest(found: Survey, made: bool) -> None:
    done = "written" if made else "nothing to do, every file is as it says"
    cli.say(f"{found.root / MANIFEST}: {done}")


def _tell(found: Survey, json: Path | None) -> None:
    """Writes and prints what was found; the end where there is a fault."""
    names = [*enumerate(found.class_names[:VOID]), (VOID, "void")]
    shares = [(name, int(found.pixels[value]), int(found.images[value])) for value, name in names]
    result = {
        "folder": str(found.root),
        "class_names": list(found.class_names),
        "splits": found.splits,
        "pixels": {name: pixels for name, pixels, _ in shares},
        "images": {name: images for name, _, images in shares},
        "faults": found.faults,
        "doubts": found.doubts,
    }
    cli.write_json(json, result)
    pairs = ", ".join(f"{split} {count}" for split, count in found.splits.items())
    cli.say(f"folder   {found.root}")
    cli.say(f"classes  {len(found.class_names)}")
    cli.say(f"pairs    {pairs or 'none'}")
    table = rich.table.Table(rich.table.Column("class", overflow="fold"), box=None)
    for column in ("pixels", "share", "images"):
        table.add_column(column, justify="right")
    total = max(int(found.pixels.sum()), 1)
    for name, count, images in shares:
        share = f"{100 * count / total:.2f}%"
        table.add_row(name, f"{count}", share, f"{images}")
    cli.console.print(table)
    for doubt in found.doubts:
        cli.say(f"note: {doubt}")
    for fault in found.faults:
        cli.say(fault)
    if found.faults:
        count = len(found.faults)
        cli.fail(f"{found.root}: {count} {'fault' if count == 1 else 'faults'}")


if __name__ == "__main__":
    cli.main(app)
