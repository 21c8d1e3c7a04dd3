"""The thin settings: each holds what it says, and runs as its options say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import OUTPUT_STRIDE, VOID
from common.errors import InputError
from common.parity.settings import SETTINGS, names_until, write_settings
from common.parity.traces import Batches, make_trace, read_batches
from common.protocol import Arrays
from common.weights.checkpoint import read_tensors, read_weights
from scripts.parity import hard
from scripts.shared.cli import progress

Command = Callable[..., tuple[int, str, str]]


def _made(name: str) -> tuple[Arrays, Batches]:
    return SETTINGS[name].make()


def test_each_setting_holds_what_it_says() -> None:
    sizes = {name: setting.batch[1:] for name, setting in SETTINGS.items()}
    divided = {name: tuple(n % OUTPUT_STRIDE == 0 for n in size) for name, size in sizes.items()}
    assert divided["generic"] == (False, False)
    assert divided["portrait"] == (False, True)
    assert divided["only_width"] == (True, False)
    assert sizes["portrait"][0] > sizes["portrait"][1]
    _, batches = _made("portrait")
    assert batches.image.shape[1] == 4
    assert (batches.label[0, 2] == VOID).all()
    assert (batches.label[0, 0] != VOID).any()
    assert (batches.label[1] == VOID).all()
    _, batches = _made("many_classes")
    assert batches.label[batches.label != VOID].max() > 127
    _, batches = _made("large")
    assert (batches.label[0] != VOID).sum() > 2**16


def test_ties_are_ties_to_the_bit(backend: str) -> None:
    from backends import load_backend

    setting = SETTINGS["ties"]
    weights, batches = setting.make()
    framework = load_backend(backend)
    probe = framework.Probe(framework.Trainer(setting.config, weights))
    logits = probe.activations(batches.image[0])["logits"]
    assert np.array_equal(logits[:, 1], logits[:, 3])
    mask = probe.trainer.predict(batches.image[0])
    assert (mask == 1).any()
    assert not (mask == 3).any()


def test_the_files_and_options_run_what_the_setting_does(
    tmp_path: Path, run_command: Command
) -> None:
    from backends import load_backend

    folder = tmp_path / "hard"
    code, out, _ = run_command("data", "generic", folder, "--hard")
    assert code == 0
    assert all(f"{folder / name}: {s.why}" in out for name, s in SETTINGS.items())
    about = json.loads((folder / "settings.json").read_text())
    assert list(about) == list(SETTINGS)
    name, setting = "head_rate", SETTINGS["head_rate"]
    files = [folder / name / f"{part}.safetensors" for part in "WB"]
    start = read_weights(files[0])
    batches = read_batches(files[1], start.num_classes, setting.steps)
    made = setting.make()
    assert all(np.array_equal(start.arrays[key], array) for key, array in made[0].items())
    assert np.array_equal(batches.image, made[1].image)
    trace = tmp_path / "torch.safetensors"
    places = ("--weights", files[0], "--batches", files[1], "--out", trace)
    options = about[name]["trace"]
    code, _, err = run_command("trace", "--backend", "torch", *places, *options)
    assert (code, err) == (0, "")
    framework = load_backend("torch")
    trainer = framework.Trainer(setting.config, made[0])
    expected = make_trace(
        framework.Probe(trainer), made[1], setting.config, setting.rates, after=True
    )
    found, _ = read_tensors(trace)
    assert found.keys() == expected.keys() >= {"after/logits", "after/mask"}
    assert all(np.array_equal(found[key], array) for key, array in expected.items())
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        write_settings(folder)


def test_names_until() -> None:
    assert names_until(["generic"]) == ["generic"]
    assert names_until(["only_width", "portrait"]) == ["generic", "portrait", "only_width"]


@pytest.mark.needs("torch", "mxnet")
def test_two_backends_on_two_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("ties", "single")
    with progress("parity") as bar:
        reports = hard.run_settings(tmp_path, ("torch", "mxnet"), bar, names)
    assert list(reports) == list(names)
    assert hard.passed(reports), hard.verdict(reports)
    hard.print_settings(reports, ("torch", "mxnet"))
    assert "PASSED within every tolerance in all of 2 settings" in capsys.readouterr().out
    assert reports["single"].reference == "reference"
    assert reports["ties"].reference == "torch"
    told = hard.to_dict(reports)
    assert told["passed"] is True
    assert told["settings"]["ties"]["passed"] is True
    path = tmp_path / "ties" / "mxnet.safetensors"
    assert "after/mask" in read_tensors(path)[0]


@pytest.mark.full
@pytest.mark.needs("torch", "mxnet", "jax")
def test_all_backends_on_all_settings(tmp_path: Path, run_command: Command) -> None:
    code, out, err = run_command("parity", "--hard", "--json", tmp_path / "hard.json")
    assert (code, err) == (0, ""), out
    assert json.loads((tmp_path / "hard.json").read_text())["passed"] is True
