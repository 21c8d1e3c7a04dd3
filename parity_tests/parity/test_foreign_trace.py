"""The example of `docs/foreign_trace.py`: somebody else's model in a trace, held against ours."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from common.config import Config, Dtype
from common.data.voc import VOC_CLASSES
from common.files import sha256
from common.network.tensors import layer_names, tensors
from common.parity.compare import relative_l2
from common.weights.checkpoint import Weights, read_tensors, write_tensors, write_weights
from parity_tests.conftest import WHOLE, batches, trace, weights
from parity_tests.network.witnesses import import_torchvision

EXAMPLE = Path(__file__).parents[2] / "docs" / "foreign_trace.py"
TRAINED = [n for n, spec in tensors("resnet18", Config.num_classes).items() if spec.trainable]


def test_torchvision_s_model_in_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, b, out = (tmp_path / f"{name}.safetensors" for name in ("W", "B", "OUT"))
    write_weights(w, Weights(weights(width=WHOLE), "resnet18", VOC_CLASSES))
    write_tensors(b, {"image": batches(WHOLE).image, "label": batches(WHOLE).label}, {})
    import_torchvision()  # beside builds that do not match; the example then finds it imported
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *map(str, (w, b, out))])
    runpy.run_path(str(EXAMPLE), run_name="__main__")

    arrays, metadata = read_tensors(out)
    assert metadata == {
        "format": "rosetta-trace",
        "schema": "1",
        "backend": "torchvision",
        "dtype": "float64",
        "groups": "eval,train,loss,grad",
        "weights_sha256": sha256(w),
        "batches_sha256": sha256(b),
    }
    layers = {f"{mode}/{layer}" for mode in ("eval", "train") for layer in layer_names("resnet18")}
    gradients = {f"grad/{name}" for name in TRAINED}
    assert arrays.keys() == layers | gradients | {"eval/mask", "loss"}
    ours = trace("torch", Dtype.float64, width=WHOLE)
    assert np.array_equal(arrays.pop("eval/mask"), ours["eval/mask"])
    assert arrays["loss"].shape == (1,)
    assert relative_l2(arrays.pop("loss"), ours["loss"][:1]) <= 1e-12
    for name, array in arrays.items():
        assert array.dtype == np.float64, name
        assert relative_l2(array, ours[name]) <= (1e-11 if name in gradients else 1e-12), name


def test_it_is_short() -> None:
    code = EXAMPLE.read_text().split('"""\n', 2)[-1].splitlines()
    assert len([line for line in code if line and not line.lstrip().startswith("#")]) <= 30
