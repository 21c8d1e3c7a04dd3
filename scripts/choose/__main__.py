"""`python -m scripts.choose`: which framework for this work, here? Measured, told and decided."""

import contextlib
import dataclasses
import datetime
import importlib.util
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import rich.box
import rich.table
import typer

from backends import BACKENDS
from common.config import OUTPUT_STRIDE, Config
from common.data.dataset import contents, open_dataset
from common.errors import InputError
from common.machine import cpu_info
from common.network.initial import initial_weights
from scripts.choose.candidates import (
    Row,
    candidates,
    first_step,
    is_optional,
    make_rows,
    prediction_jobs,
    training_jobs,
)
from scripts.choose.facts import ONNX_RUNTIME, column, dated
from scripts.choose.proof import prove
from scripts.choose.rule import RULES, criteria_in_words, decide, figures, in_words
from scripts.shared.cli import (
    BackendsOption,
    ForceOption,
    JsonOption,
    choose_backends,
    console,
    main,
    new_app,
    say,
    write_json,
)
from scripts.shared.outputs import HTML, JSON, check_places
from scripts.shared.speed.turns import Measured, check_processes, cores, take_turns, threads
from scripts.shared.speed.worker import Job

app = new_app()

SIZE = (256, 384)
"""With four images and five rounds, about five minutes on two cores."""

BATCH_SIZE = 4

LEAST_ROUNDS = 3
"""Fewer have no quartiles to speak of."""


def check_size(size: tuple[int, int]) -> None:
    """Refuses what the book's form cannot take, and what leaves no room for a smaller size.

    Raises:
        InputError: a side is no multiple of 32, or too small.
    """
    least = 2 * OUTPUT_STRIDE
    if any(side < least or side % OUTPUT_STRIDE for side in size):
        told = " ".join(map(str, size))
        raise InputError(
            f"--size {told}: multiples of {OUTPUT_STRIDE}, of {least} at least, are wanted"
        )


def check_data(data: Path) -> list[Path]:
    """The files of the pictures.

    Raises:
        InputError: it is no dataset, or one of more classes than the network has.
    """
    classes = open_dataset(data, "train").num_classes
    if classes > Config.num_classes:
        raise InputError(f"{data}: {classes} classes, the network here has {Config.num_classes}")
    return contents(data)


def check_page(html: Path | None) -> None:
    """Refuses a page that could not be made in the end.

    Raises:
        InputError: the template's language is not installed.
    """
    if html is not None and importlib.util.find_spec("jinja2") is None:
        raise InputError("--html: jinja2 is not installed; install it with: pip install jinja2")


def write_graph(path: Path) -> None:
    """Writes the network that all candidates predict by as an ONNX file."""
    from scripts.shared.onnx import export_classes

    config = Config()
    network = config.architecture, config.num_classes, config.seed
    export_classes(path, initial_weights(*network), config)


def machine(seconds: float, load: float) -> dict[str, Any]:
    """What the numbers were taken on, and when; `load` is what was waiting for it before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_info().get("model name", platform.machine()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": cores(),
        "threads": threads(),
        "memory_gb": memory / 1e9,
        "load_before": load,
        "seconds": seconds,
    }


def measure(
    at: Job, backends: Sequence[str], rounds: int, processes: int, compile_too: bool, folder: Path
) -> list[list[Measured]]:
    """All of training, then all of prediction.

    Raises:
        InputError, WorkerError: as `take_turns`.
    """
    graph = None
    if "torch" in backends and at.device == "cpu" and all(map(_is_there, ("onnx", ONNX_RUNTIME))):
        graph = folder / "network.onnx"
        with console.status("writing the network for ONNX Runtime"):
            write_graph(graph)
    both = (
        training_jobs(at, backends, processes=processes, compile_too=compile_too),
        prediction_jobs(
            at, backends, graph=None if graph is None else str(graph), compile_too=compile_too
        ),
    )
    return [take_turns(jobs, rounds, optional=list(filter(is_optional, jobs))) for jobs in both]


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def show(rows: Sequence[Row], title: str) -> None:
    """Prints rows as a table, the fastest of each kind where it stands."""
    if not console.is_terminal:
        console.width = 100
    table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("images/s", "quartiles", "x book", "first step s", "new size s", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row["error"]:
            table.add_row(row["name"], "not here")
            continue
        table.add_row(
            row["name"],
            figures(row["images_per_second"]),
            " to ".join(map(figures, row["quartiles"])),
            f"{row['times_book']:.2f}",
            _seconds(first_step(row)),
            _seconds(row["new_size_seconds"]),
            figures(row["peak_mb"]),
        )
    console.print(table)
    for row in rows:
        if row["error"]:
            say(f"{row['name']}: {row['error']}")


def show_decisions(decisions: Sequence[Mapping[str, Any]]) -> None:
    """Prints who is chosen for each reader, and why."""
    for one in decisions:
        console.print()
        say(f"{one['reader']}: {' or '.join(one['chosen']) or 'nobody'}")
        for reason in one["reasons"]:
            console.print(f"  {reason}", soft_wrap=True)


@app.command()
def choose(
    backends: BackendsOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Pictures, a folder in VOC's layout: train on what is read from it too."),
    ] = None,
    size: Annotated[
        tuple[int, int], typer.Option(metavar="H W", help="The images' size, multiples of 32.")
    ] = SIZE,
    batch_size: Annotated[int, typer.Option(min=2, metavar="N", help="Images in a batch.")] = (
        BATCH_SIZE
    ),
    rounds: Annotated[int, typer.Option(min=LEAST_ROUNDS, help="Turns of each candidate.")] = 5,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Train in so many processes, too.")
    ] = 1,
    compile_too: Annotated[
        bool,
        typer.Option(
            "--compile", help="Measure torch.compile too, and JAX compiled ahead of time; minutes."
        ),
    ] = False,
    device: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="Where the networks compute.")
    ] = "cpu",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write all of it as one page.")
    ] = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Says which framework to take for this work, on this machine: in about five minutes.

    Trains and predicts in each, compares them in float64, tells what is installed, and decides for
    three readers by a rule that is printed with it.
    """
    begin, load = time.monotonic(), os.getloadavg()[0]
    check_size(size)
    threads()  # that it is a number
    check_page(html)
    check_processes([processes], [batch_size])
    read = check_data(data) if data is not None else []
    check_places((json_file, JSON), (html, HTML), reads=read, force=force)
    chosen = choose_backends(backends)
    with console.status("asking the installed packages"):
        asked = {name: column(name, chosen) for name in (*BACKENDS, ONNX_RUNTIME)}
    columns = {name: facts for name, facts in asked.items() if facts is not None}
    names = {name: facts["name"] for name, facts in columns.items()}
    folder = None if data is None else str(data.absolute())
    at = Job(None, "", "", batch_size, *size, device=device, data=folder)
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="choose-")))
        with console.status("comparing the backends in float64"):
            proof = prove(chosen, made)
        measured = measure(at, chosen, rounds, processes, compile_too, made)
    rows = [make_rows(one, names) for one in measured]
    able = candidates([*rows[0], *rows[1]], columns, proof["equal"] if proof else {})
    result = {
        "machine": machine(time.monotonic() - begin, load),
        "settings": {
            "size": size,
            "batch_size": batch_size,
            "rounds": rounds,
            "processes": processes,
            "compile": compile_too,
            "device": device,
            "data": None if data is None else str(data),
            "command": shlex.join(["python", "-m", "scripts.choose", *sys.argv[1:]]),
        },
        "decisions": [dataclasses.asdict(decide(rule, able)) for rule in RULES],
        "rule": in_words(),
        "criteria": {rule.reader: criteria_in_words(rule) for rule in RULES},
        "parity": proof,
        "training": rows[0],
        "prediction": rows[1],
        "frameworks": columns,
        "checked": dated()["checked"].isoformat(),
    }
    show(rows[0], "training")
    show(rows[1], "prediction")
    show_decisions(result["decisions"])
    write_json(json_file, result)
    if html is not None:
        from scripts.choose.page import write_page  # here: Jinja2 is an extra

        write_page(html, result)


if __name__ == "__main__":
    main(app)
