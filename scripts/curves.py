"""Several runs side by side: their losses, their mean IoU on val, a table."""

import enum
from pathlib import Path
from typing import Annotated, Any

import rich.table
import typer

from common.errors import InputError
from common.files import write_whole
from common.runs.run_folder import RunFolder, run_files
from scripts.shared.cli import (
    ForceOption,
    JsonOption,
    console,
    fraction,
    main,
    new_app,
    write_json,
)
from scripts.shared.outputs import JSON, PNG, check_places
from scripts.shared.plots import plot_runs

app = new_app()


class Against(enum.StrEnum):
    """What the curves are drawn against."""

    step = "step"
    time = "time"


def read_run(folder: Path) -> dict[str, Any]:
    """What a run folder tells, be the run finished or not; nothing in it is changed.

    Raises:
        InputError: there is no run, or one of its files is damaged.
    """
    run = RunFolder(folder)
    info = run.info()
    run.read_logs()
    backends = dict.fromkeys(part["backend"] for part in info["history"])
    return {
        "run": str(folder),
        "backends": list(backends),
        "seed": info["seed"],
        "steps": run.steps,
        "val": run.val,
    }


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of `train`.")],
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture, a PNG.")] = None,
    against: Annotated[
        Against, typer.Option(help="What the picture has to the right: steps, or their time.")
    ] = Against.step,
    json_path: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Lay the curves of several runs on top of each other, of one framework or of several."""
    read = [path for folder in runs for path in run_files(folder)]
    check_places((plot, PNG), (json_path, JSON), reads=read, force=force)
    found = [read_run(folder) for folder in runs]
    for run in found:
        if against is Against.time and not all("seconds" in line for line in run["steps"]):
            raise InputError(
                f"{run['run']}: --against time, but its log.jsonl has steps without seconds"
            )
    table = rich.table.Table(rich.table.Column("run", overflow="fold"), "backend", box=None)
    for name in ("seed", "steps", "last loss", "last IoU", "best IoU"):
        table.add_column(name, justify="right")
    for run in found:
        ious = [line["mean_iou"] for line in run["val"]]
        table.add_row(
            run["run"],
            " > ".join(run["backends"]),
            str(run["seed"]),
            str(len(run["steps"])),
            fraction(run["steps"][-1]["loss"] if run["steps"] else None),
            fraction(ious[-1] if ious else None),
            fraction(max((iou for iou in ious if iou is not None), default=None)),
        )
    console.print(table)
    write_json(json_path, found)
    if plot is not None:
        write_whole(plot, lambda path: plot_runs(path, found, against is Against.time))


if __name__ == "__main__":
    main(app)
