"""`python -m scripts.data`: makes data to train on or to compare on, checks a folder."""

from pathlib import Path
from typing import Annotated, Any

import rich.markup
import rich.table
import typer

from common.config import VOID, Config
from common.dataset import Survey, survey
from common.shapes import SHAPES_TRAIN, SHAPES_VAL, write_shapes
from common.traces import write_generic
from scripts.cli import (
    ArchitectureOption,
    JsonOption,
    console,
    fail,
    main,
    new_app,
    write_json,
)

app = new_app()


@app.callback()
def data() -> None:
    """Data sets in Pascal VOC's layout, and what traces are made from."""


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    train: Annotated[int, typer.Option(min=1, help="Training pairs.")] = SHAPES_TRAIN,
    val: Annotated[int, typer.Option(min=1, help="Validation pairs.")] = SHAPES_VAL,
    seed: Annotated[int, typer.Option(min=0, help="What the pairs are drawn from.")] = 0,
) -> None:
    """Makes the synthetic shapes set: circles, squares, triangles, rings, crosses."""
    with console.status("drawing"):
        write_shapes(folder, train, val, seed)
    print(f"{folder}: {train} training and {val} validation pairs")


@app.command()
def generic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    architecture: ArchitectureOption = Config.architecture,
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 2,
    size: Annotated[
        tuple[int, int], typer.Option(min=1, metavar="H W", help="The images' height and width.")
    ] = (64, 96),
    seed: Annotated[int, typer.Option(min=0, help="What the values are drawn from.")] = 0,
) -> None:
    """Makes generic weights and batches to trace: W.safetensors and B.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, batches = (folder / f"{name}.safetensors" for name in "WB")
    write_generic(weights, batches, architecture, steps, batch_size, size, seed)
    print(f"{weights}: generic weights of {architecture}")
    print(f"{batches}: {steps} batches of {batch_size} {size[0]}x{size[1]}")


@app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="JPEGImages and the rest, or what holds VOCdevkit."),
    ],
    json: JsonOption = None,
) -> None:
    """Reads every pair of every split and lists every fault; exit code 2 if there is one."""
    with console.status("reading"):
        found = survey(folder)
    write_json(json, _result(found))
    _print_summary(found)
    for fault in found.faults:
        print(fault)
    if found.faults:
        count = len(found.faults)
        fail(f"{found.root}: {count} {'fault' if count == 1 else 'faults'}")
    print("no faults")


def _shares(found: Survey) -> list[tuple[str, int]]:
    """Name and pixels of each class, void last."""
    names = [*enumerate(found.class_names[:VOID]), (VOID, "void")]
    return [(name, int(found.pixels[value])) for value, name in names]


def _result(found: Survey) -> dict[str, Any]:
    return {
        "folder": str(found.root),
        "class_names": list(found.class_names),
        "splits": found.splits,
        "pixels": dict(_shares(found)),
        "faults": found.faults,
    }


def _print_summary(found: Survey) -> None:
    pairs = ", ".join(f"{split} {count}" for split, count in found.splits.items())
    print(f"folder   {found.root}")
    print(f"classes  {len(found.class_names)}")
    print(f"pairs    {pairs or 'none'}")
    table = rich.table.Table("class", box=None)
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    total = max(int(found.pixels.sum()), 1)
    for name, count in _shares(found):
        table.add_row(rich.markup.escape(name), f"{count}", f"{100 * count / total:.2f}%")
    console.print(table)


if __name__ == "__main__":
    main(app)
