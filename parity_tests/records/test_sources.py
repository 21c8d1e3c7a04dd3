"""The code that a record holds of its modules, and what a comparison shows of it."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends import load_backend
from common.errors import InputError
from common.parity.compare_records import compare_records
from common.parity.records import SOURCE_SIZE, Record, read_record, write_record
from common.parity.report import Excerpt
from common.parity.watching import source_of
from parity_tests.records.test_mistakes import circular, detached_skip, eps, leaky, momentum
from parity_tests.records.test_record import IMAGES, NETS, on_device, record

METHODS = {"torch": "forward", "mxnet": "hybrid_forward", "jax": "__call__", "linen": "__call__"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of PyTorch's network."""
    folder = tmp_path_factory.mktemp("sources")
    record("torch", folder, generic=0)
    return folder / "torch.safetensors"


@pytest.mark.parametrize("net", NETS)
def test_the_code_of_a_network_is_kept_and_of_a_library_is_not(net: str, tmp_path: Path) -> None:
    load_backend("jax" if net == "linen" else net)
    kept = record(net, tmp_path).layers
    assert [path for path, layer in kept.items() if layer.source] == [""]
    found, file = kept[""].source, Path(__file__).with_name(f"{NETS[net][0]}.py")
    assert found is not None and found.file == file.name
    lines = file.read_text().splitlines()[found.line - 1 :]
    assert f"def {METHODS[net]}(self, " in "".join(lines[:2])
    told = found.text.splitlines()
    assert [line.strip() for line in told] == [line.strip() for line in lines[: len(told)]]
    assert told[-1].startswith("    return ")


@pytest.mark.needs("mxnet")
def test_a_hybrid_block_with_a_forward_of_its_own(tmp_path: Path) -> None:
    from backends.mxnet import record as mxnet_record

    load_backend("mxnet")
    from mxnet.gluon import HybridBlock, nn

    class Net(HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Dense(2, in_units=3)
            self.initialize()

        def forward(self, x: Any) -> Any:
            return self.dense(x.mean((2, 3)))

    images, out = on_device("mxnet", IMAGES), tmp_path / "x.safetensors"
    found = mxnet_record(Net(), images, out=out).layers[""].source
    assert found is not None and "return self.dense(x.mean((2, 3)))" in found.text


def test_code_that_python_does_not_know() -> None:
    typed: dict[str, Callable[[], int]] = {}
    exec("def forward(): return 1", typed)  # as in an interpreter
    assert source_of(typed["forward"], "torch.nn") is None
    assert source_of(len, "torch.nn") is source_of(None, "torch.nn") is None


def test_long_code_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["def forward(x):", *(f"    x = x + {k}" for k in range(1000)), "    return x"]
    (tmp_path / "long_net.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    found = source_of(importlib.import_module("long_net").forward, "torch.nn")
    assert found is not None and SOURCE_SIZE - 40 < len(found.text) <= SOURCE_SIZE
    told = found.text.splitlines()
    assert told[:-1] == lines[: len(told) - 1] and told[-1] == "..."


def changed(path: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Writes a record with its facts changed."""
    found = read_record(path)
    facts = json.loads(found.metadata["record"])
    change(facts)
    out = folder / "changed.safetensors"
    metadata = {**found.metadata, "record": json.dumps(facts)}
    write_record(out, Record(found.label, found.arrays, metadata))
    return out


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "too long": lambda facts: facts["sources"][0].update(text="x" * (SOURCE_SIZE + 1)),
    "no text": lambda facts: facts["sources"][0].update(text=None),
    "no line": lambda facts: facts["sources"][0].update(line="12"),
    "no such key": lambda facts: facts["sources"][0].update(folder="/"),
    "none": lambda facts: facts.update(sources=[]),
    "no list": lambda facts: facts.update(sources=3),
}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_source_that_is_none_is_refused(reference: Path, spoilt: str, tmp_path: Path) -> None:
    path = changed(reference, tmp_path, SPOILT[spoilt])
    with pytest.raises(InputError, match="its metadata do not describe a record: ") as told:
        read_record(path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


@pytest.mark.needs("torch")
def test_a_trace_that_holds_no_code_is_read(reference: Path, tmp_path: Path) -> None:
    def forget(facts: dict[str, Any]) -> None:
        del facts["sources"]
        for row in facts["layers"].values():
            del row["source"]

    found = read_record(changed(reference, tmp_path, forget))
    assert {layer.source for layer in found.layers.values()} == {None}
    assert compare_records([read_record(reference), found], {}).passed


def code_of_first(records: list[Record]) -> list[Excerpt]:
    report = compare_records(records, {})
    first = report.first(report.compared[0])
    assert first is not None
    return first.code


SHOWN: dict[Callable[[Any], Any], tuple[tuple[str, tuple[str, ...]], ...]] = {
    eps: (("", ("norm",)),) * 2,
    momentum: (("", ("norm",)),) * 2,
    leaky: (("", ("norm", "shared")),) * 2,
    detached_skip: (("", ("down", "shared")),) * 2,
    circular: (("", ("shared",)),) * 2,
}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("mistake", SHOWN, ids=lambda f: f.__name__)
def test_both_forward_passes_are_shown(
    reference: Path, tmp_path: Path, mistake: Callable[[Any], Any]
) -> None:
    from parity_tests.records.torch_net import Net

    model = Net()
    mistake(model)
    port = record("torch", tmp_path, model=model, against=reference)
    port = Record("port", port.arrays, port.metadata)
    code = code_of_first([read_record(reference), port])
    assert [e.trace for e in code] == ["torch", "port"]
    assert tuple((e.module, e.calls) for e in code) == SHOWN[mistake]
    assert {(e.kind, e.source.file) for e in code} == {("Net", "torch_net.py")}


@pytest.mark.needs("torch", "jax")
def test_the_code_of_two_frameworks_stands_side_by_side(reference: Path, tmp_path: Path) -> None:
    from parity_tests.records.jax_net import Net

    model = Net(epsilon=1e-3)
    port = record("jax", tmp_path, model=model, against=reference)
    code = code_of_first([read_record(reference), port])
    assert [(e.kind, e.calls, e.source.file) for e in code] == [
        ("Net", ("norm",), "torch_net.py"),
        ("Net", ("norm",), "jax_net.py"),
    ]
