"""Trains the network and keeps a run folder; goes on with a run, in any backend."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import typer

from backends import load_backend
from common.config import SETTINGS, VOID, Architecture, Config, Head
from common.data.dataset import Dataset, contents
from common.data.drawing import prediction_sheet
from common.errors import InputError
from common.files import write_whole
from common.network.grid import check_parts
from common.network.initial import initial_weights
from common.protocol import Arrays, ProcessGroup
from common.runs.agreement import check_alike, sizes_of
from common.runs.recipes import RECIPES, description, find_recipe, read_recipe, write_recipe
from common.runs.run_folder import LAST, ReadOnlyFolder, RunFolder, run_files
from common.weights.checkpoint import Weights, digest
from scripts.shared import cli
from scripts.shared.evaluation import check_names, config_of, evaluate_dataset, print_metrics
from scripts.shared.outputs import JSON, check_places
from scripts.shared.plots import plot_classes, plot_confusion, plot_run
from scripts.shared.processes import (
    joined,
    launched,
    run_processes,
    show_pulse,
)
from scripts.shared.training import Training, data_digest, open_data, resume_command
from scripts.shared.weights_files import load_weights

app = cli.new_app()

SHOWN = 6
"""Val images on the sheet at the end of a run."""


def start_weights(
    path: Path | None,
    config: Config,
    train: Dataset,
    architecture: Architecture | None,
    head: Head | None,
) -> Weights:
    """What training starts from: any file of weights, `imagenet`, or the seed's initial weights.

    Of a backbone, the head is the seed's. `architecture` and `head` are those which were asked
    for, if any.

    Raises:
        InputError: the file cannot be read, or is another network, or its classes are not the
            data's.
    """
    names = train.class_names
    if path is None:
        network = config.architecture, len(names), config.seed, config.upsample_init
        arrays: Arrays = dict(initial_weights(*network, head=config.head))
        return Weights(arrays, config.architecture, names)
    loaded = load_weights(
        path,
        num_classes=len(names),
        class_names=names,
        seed=config.seed,
        upsample_init=config.upsample_init,
        architecture=architecture,
        head=head,
    )
    for line in loaded.notes:
        cli.note(f"{path}: {line}")
    check_names(path, loaded.weights, train)
    return loaded.weights


def finish(training: Training, json_path: Path | None) -> None:
    """Draws what the run has come to, and prints it."""
    folder, val, names = training.folder, training.val, training.train.class_names
    if val is not None and training.metrics is None:  # the run was at its end when it was resumed
        training.metrics = evaluate_dataset(training.trainer, val, group=training.group)
    if training.group.rank > 0:
        return
    metrics, summary = training.metrics, training.summary()
    at = folder.folder
    write_whole(at / "curves.png", lambda path: plot_run(path, folder.steps, folder.val))
    if val is not None and metrics is not None:
        cli.write_json(at / "metrics.json", metrics | {"run": summary})
        confusion = metrics["confusion"]
        write_whole(at / "confusion.png", lambda path: plot_confusion(path, confusion, names))
        rows, mean = metrics["per_class"], metrics["mean_iou"]
        write_whole(at / "classes.png", lambda path: plot_classes(path, rows, mean))
        write_whole(at / "predictions.png", lambda path: _draw_predictions(path, training, val))
        print_metrics(metrics)
    cli.say(
        f"{at}: {len(folder.steps)} steps, loss {folder.steps[-1]['loss']:.4f},"
        f" {summary['images_per_second']:.1f} images/s, {summary['peak_mb']:.0f} MiB"
    )
    if metrics is not None:
        best = max(folder.val, key=lambda line: line["mean_iou"] or 0.0)
        cli.say(
            f"val: mean IoU {cli.fraction(metrics['mean_iou'])}; the best,"
            f" {cli.fraction(best['mean_iou'])}, after step {best['step']}"
        )
    result = {"steps": folder.steps, "val": folder.val, "metrics": metrics, "run": summary}
    cli.write_json(json_path, result)


def _draw_predictions(path: Path, training: Training, val: Dataset) -> None:
    """Some val images, spread over the split: picture, truth, prediction."""
    rows = []
    for index in sorted({round(k) for k in np.linspace(0, len(val) - 1, SHOWN)}):
        image, label = val.read(index)
        rows.append((image, [label, training.trainer.predict(image[None])[0]]))
    page = prediction_sheet(["image", "truth", "prediction"], rows, val.class_names)
    page.save(path, format="PNG")


FREE = ("device", "workers", "save_minutes", "processes", "accumulate", "patience")
"""The settings that may change when a run goes on; of two of them the product stays."""


def _read_recipe(context: typer.Context, name: str | None) -> str | None:
    """Puts a recipe's values where the defaults of the options are."""
    if name is None:
        return None
    path = find_recipe(name)
    options = {option.name: option for option in context.command.params if option.name in SETTINGS}
    values = read_recipe(path, SETTINGS)
    for key, value in values.items():
        try:
            options[key].process_value(context, value)
        except typer.BadParameter as error:
            raise InputError(f"{path}: {key} = {value!r}: {error.message}") from error
    context.default_map = values
    return name


def _given(context: typer.Context) -> dict[str, str]:
    """The settings that were typed: field of `Config` -> the option's name."""
    return {
        option.name: option.opts[-1]
        for option in context.command.params
        if option.name in SETTINGS and _source(context, option.name) == "COMMANDLINE"
    }


def _source(context: typer.Context, name: str) -> str:
    """Where an option's value is from: COMMANDLINE, DEFAULT_MAP (a recipe), DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name


def _check_alike(training: Training, arrays: Arrays) -> None:
    """Refuses processes that would not compute one run."""
    made, config = training.made_by, training.config
    facts = {
        "versions": f"{made['backend']} {made['versions']}",
        "settings": f"{config.to_dict()}",
        "weights": digest(arrays, {}),
        "data": sizes_of(training.train),
    }
    check_alike(training.group, facts)


def start(
    group: ProcessGroup,
    folder: RunFolder,
    backend: str,
    data: Path,
    weights: Path | None,
    recipe: str | None,
    config: Config,
    architecture: Architecture | None,
    head: Head | None,
) -> Training:
    """A new run in its folder; `architecture`, `head` where asked for, not left to the weights.

    Raises:
        InputError: the folder holds something, or the data, the weights or the backend is at fault.
    """
    folder.check_new()
    train_set, val_set = open_data(data, config)
    initial = start_weights(weights, config, train_set, architecture, head)
    config = config_of(initial, config)
    trainer = load_backend(backend).Trainer(config, initial.arrays, group)
    training = Training(backend, trainer, train_set, val_set, config, folder, group)
    _check_alike(training, initial.arrays)
    folder.create()
    folder.write_info(
        {
            **config.to_dict(),
            "backend": backend,
            "versions": training.made_by["versions"],
            "recipe": recipe,
            "data": str(data.absolute()),
            "weights": None if weights is None else str(weights),
            "class_names": train_set.class_names,
            "void_label": VOID,
            "history": [{"step": 0, **training.made_by}],
        }
    )
    return training


def _spread(folder: Path, its: Config, given: dict[str, str], config: Config) -> dict[str, int]:
    """How a run's parts of a batch are spread over `config.processes`: as settings of `Config`.

    Raises:
        InputError: what was asked for gives another number of parts.
    """
    processes = config.processes
    accumulate = max(1, its.parts // processes)
    if "accumulate" in given:
        accumulate = config.accumulate
    if accumulate * processes != its.parts:
        raise InputError(
            f"{folder}: --accumulate times --processes is {its.parts} in this run, not"
            f" {accumulate * processes}; a new run may begin with --weights {folder / LAST}"
        )
    return {"processes": processes, "accumulate": accumulate}


def resume(
    group: ProcessGroup,
    folder: RunFolder,
    backend: str,
    data: Path | None,
    given: dict[str, str],
    config: Config,
) -> tuple[Training, int]:
    """A run that goes on, and the step it is at.

    `given` are the settings of `config` that were typed; all others are the run's own.

    Raises:
        InputError: there is no run, none of its checkpoints can be read, a setting or the data
            is another, or another process is at it.
    """
    folder.info()  # in what is no run, no lock is left
    folder.lock()
    out, info = folder.folder, folder.info()
    found, word = folder.load()
    if word is not None:
        cli.note(word)
    for field, option in given.items():
        mine, its = getattr(config, field), getattr(found.config, field)
        if field not in FREE and mine != its:
            raise InputError(
                f"{out}: {option} {_plain(mine)}, but the run has {_plain(its)}: a run keeps its"
                " settings but for --backend, --data, --device, --workers and --save-minutes"
            )
    changes = {key: getattr(config, key) for key in given if key in FREE}
    config = found.config.replace(**changes | _spread(out, found.config, given, config))
    if data is None and not Path(info["data"]).is_dir():
        raise InputError(
            f"{info['data']}: no such folder; --data tells where the run's data is now"
        )
    train_set, val_set = open_data(data or Path(info["data"]), config)
    if data_digest(train_set) != found.data:
        raise InputError(
            f"{train_set.root}: its train split or its classes are not those of the run in {out}"
        )
    trainer = load_backend(backend).Trainer(config, found.weights.arrays, group)
    trainer.load_momentum(found.weights.momentum)
    training = Training(backend, trainer, train_set, val_set, config, folder, group)
    _check_alike(training, {**found.weights.arrays, **found.weights.momentum})
    folder.rewind(found.step)
    if training.made_by != {"processes": 1} | found.made_by:  # older runs do not tell
        cli.note(
            f"from step {found.step} on with {_maker(training.made_by)}, until now"
            f" {_maker(found.made_by)}: the same up to rounding, not bit for bit"
        )
    info["history"].append({"step": found.step, **training.made_by})
    spread = {"processes": config.processes, "accumulate": config.accumulate}
    versions = training.made_by["versions"]
    folder.write_info({**info, **spread, "backend": backend, "versions": versions})
    cli.say(f"{out}: goes on at step {found.step} of {training.steps}")
    return training, found.step


def _refuse_own(json_path: Path | None, folder: Path | None) -> None:
    """Refuses a result that would take the place of one of the run's own files."""
    own = [] if folder is None else [path.absolute() for path in run_files(folder)]
    if json_path is not None and json_path.absolute() in own:
        raise InputError(f"{json_path}: is a file of the run's own")


def _run(training: Training, first: int, stop_after: int | None, json_path: Path | None) -> None:
    if training.run(first, stop_after):
        finish(training, json_path)
    else:
        done = max(first, stop_after or 0)
        how = training.how_to_go_on()
        cli.say(f"stopped after step {done} of {training.steps}, saved: {how}")


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _maker(made: dict[str, Any]) -> str:
    threads = made["threads"]
    on = "1 thread" if threads == 1 else f"{threads} threads"
    if made.get("processes", 1) > 1:
        on += f" in each of {made['processes']} processes"
    return f"{made['backend']} {made['versions'][made['backend']]} on {made['device']}, {on}"


def _summary(recipe: Path) -> str:
    """The first sentence of a recipe's description."""
    return re.split(r"[.:]\s", " ".join(description(recipe).split()))[0]


ABOUT_RECIPES = "Recipes, told in docs/training.md:\n\n\b\n" + "\n".join(
    f"  {name:<12}{_summary(path)}" for name, path in RECIPES.items()
)

GROUPS = {
    "Network": ("architecture", "head", "upsample_init", "freeze"),
    "Optimization": (
        *("learning_rate", "head_rate", "schedule", "poly_power", "warmup"),
        *("momentum", "weight_decay", "decay"),
    ),
    "Data": (
        "batch_size",
        "accumulate",
        "crop",
        "flip_probability",
        "scale",
        "jitter",
        "void",
        "seed",
    ),
    "Run": (
        *("epochs", "steps", "save_minutes", "workers", "device", "dtype"),
        *("processes", "patience"),
    ),
}
"""The settings as the help lists them, by heading."""


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, in place of `**settings`, an option for each setting of `Config`."""
    names, metavars = (
        {"learning_rate": ["--learning-rate", "--lr"]},
        {"crop": "H W", "scale": "MIN MAX"},
    )
    types = get_type_hints(Config)
    signature = inspect.signature(command)
    *own, _ = signature.parameters.values()
    options = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Config, field),
            annotation=Annotated[
                types[field],
                cli.setting(field, *names.get(field, ()), metavar=metavars.get(field), group=group),
            ],
        )
        for group, fields in GROUPS.items()
        for field in fields
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


@app.command(cls=cli.GroupedCommand, epilog=ABOUT_RECIPES)
@_with_settings
def train(
    context: typer.Context,
    backend: Annotated[
        cli.BackendName | None,
        typer.Option(help="The framework that computes; --resume may change it."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder in VOC's layout, or one that holds it as VOCdevkit/VOC2012."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; new or empty.")] = None,
    resume_run: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a run, as if it had never ended."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|imagenet",
            help="Start from any file that `convert` reads, or from what torchvision or Gluon"
            " publishes, not from the seed's initial weights.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            is_eager=True,
            callback=_read_recipe,
            help=f"Settings by name ({', '.join(RECIPES)}) or from a TOML file; other options"
            " override them.",
        ),
    ] = None,
    port: cli.PortOption = None,
    stop_after: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEP", help="Save and stop once so many steps are done."),
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the settings, as a recipe, and do nothing.")
    ] = False,
    json_path: cli.JsonOption = None,
    force: cli.ForceOption = False,
    **settings: Any,
) -> None:
    """Train a network into a run folder: config, logs, checkpoints and pictures.

    SIGINT (Ctrl-C), SIGTERM or SIGHUP lets the step end, saves, and says how to go on. SIGUSR1
    saves and goes on. torchrun and the like may place --processes elsewhere (docs/processes.md).
    """
    show_pulse()
    config = Config(**settings)
    if show_config:
        print(write_recipe({key: config.to_dict()[key] for key in SETTINGS}), end="")
        return
    read = [weights, None if recipe is None else find_recipe(recipe)]
    read += contents(data) if data is not None else []
    _refuse_own(json_path, resume_run or out)
    check_places((json_path, JSON), reads=read, made=out, force=force)
    given = _given(context)
    if resume_run is not None:
        for option, value in (("--out", out), ("--weights", weights), ("--recipe", recipe)):
            if value is not None:
                raise InputError(f"{option}: not with --resume, for a run keeps what it has")
        info = RunFolder(resume_run).info()
        place, name = resume_run, str(backend or info["backend"])
        its = Config.from_dict(info)
        usual = its.processes
    else:
        if backend is None or data is None or out is None:
            missing = {"--backend": backend, "--data": data, "--out": out}
            names = [option for option, value in missing.items() if value is None]
            raise InputError(f"{', '.join(names)}: missing, for a new run (or --resume RUN)")
        place, name = out, str(backend)
        usual = config.processes
    size = config.processes if "processes" in given else max(usual, launched(name))
    config = config.replace(processes=size)
    if resume_run is None:
        check_parts(config, config.batch_size)
    else:
        _spread(resume_run, its, given, config)
    if size > 1 and launched(name) == 1:
        code = run_processes(name, size, port, config.patience, lambda: _last_words(place))
        raise SystemExit(code)
    with (
        joined(name, size, config.patience, lambda: _last_words(place)) as group,
        RunFolder(place) if group.rank == 0 else ReadOnlyFolder(place) as folder,
    ):
        if resume_run is not None:
            training, first = resume(group, folder, name, data, given, config)
        else:
            asked = [
                getattr(config, field) if _source(context, field) != "DEFAULT" else None
                for field in ("architecture", "head")
            ]
            assert data is not None
            training = start(group, folder, name, data, weights, recipe, config, *asked)
            first = 0
        _run(training, first, stop_after, json_path)


def _last_words(folder: Path) -> str:
    """How a run goes on whose processes have ended; nothing, if none has begun."""
    return resume_command(folder) if (folder / LAST).exists() else ""


if __name__ == "__main__":
    cli.main(app)
