"""Mistakes in a port, in PyTorch against PyTorch: each is found, and where it is."""

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.parity.compare_records import compare_records
from common.parity.mapping import Entry, Map
from common.parity.records import Record, read_record
from parity_tests.records.test_record import IMAGES, record

pytestmark = pytest.mark.needs("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    record("torch", folder, generic=0)
    (folder / "torch.safetensors").rename(folder / "reference.safetensors")
    return folder


def port(folder: Path, change: Callable[[Any], Any]) -> tuple[Record, Record]:
    """The reference, and a port of it: the same network, changed."""
    from parity_tests.records.torch_net import Net

    model = Net()
    model = change(model) or model
    reference = folder / "reference.safetensors"
    return read_record(reference), record("torch", folder, model=model, against=reference)


def leaky(model: Any) -> None:
    from torch import nn

    model.rectify = nn.LeakyReLU(inplace=True)


def eps(model: Any) -> None:
    model.norm.eps = 1e-3


def momentum(model: Any) -> None:
    model.norm.momentum = 0.01


def around(model: Any, name: str, before: Any = None, after: Any = None) -> None:
    """Puts a layer into a module that does something before it, and after it."""
    from torch import nn

    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            y = self.inner(before(self, x) if before else x)
            return after(self, y) if after else y

    setattr(model, name, Around(getattr(model, name)))


def detached_skip(model: Any) -> None:
    around(model, "shared", before=lambda layer, x: x.detach())


def detached_value(model: Any) -> None:
    around(model.heads, "2", after=lambda layer, y: y.detach())


def frozen(model: Any) -> None:
    model.norm.weight.requires_grad_(False)


def circular(model: Any) -> None:
    model.shared.padding_mode = "circular"
    model.shared._reversed_padding_repeated_twice = [1, 1, 1, 1]


def scaled(model: Any) -> None:
    around(model, "drop", before=lambda layer, x: x * (1 + 1e-12))


def moved(model: Any) -> None:
    around(model, "up", after=lambda layer, y: y.roll(1, 2))


MISTAKES: dict[Callable[[Any], Any], tuple[str, str]] = {
    leaky: ("local/eval/shared:in", "between norm and shared (rectify)"),
    eps: ("local/eval/norm:out", "made by BatchNorm2d"),
    momentum: ("buffer/norm.running_mean", ""),
    detached_skip: ("grad/shared.weight", "on the way back from down to shared"),
    circular: ("local/eval/shared:out", "made by Conv2d"),
    scaled: ("local/eval/heads.0:in", "between up and heads.0 (drop)"),
    moved: ("local/eval/flat:in", "between up and flat (drop)"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_a_mistake_is_found_where_it_is(folder: Path, mistake: Callable[[Any], Any]) -> None:
    report = compare_records(port(folder, mistake), {})
    first = report.first("torch")
    assert first is not None
    assert (first.name, first.place) == MISTAKES[mistake]


def test_no_mistake_is_none(folder: Path) -> None:
    report = compare_records(port(folder, lambda model: None), {})
    assert report.passed
    assert "torch equals reference to the last bit" in report.verdict()


def test_three_at_once_are_three(folder: Path) -> None:
    def three(model: Any) -> None:
        eps(model)
        circular(model)
        scaled(model)

    report = compare_records(port(folder, three), {})
    new = [d.name for d in report.differences if d.status == "new"]
    assert new[:2] == ["local/eval/norm:out", "local/eval/shared:out"]
    assert "local/eval/heads.0:in" in new
    assert all(name.startswith(("local/eval/", "buffer/")) for name in new)


def test_what_a_batch_norm_is_stands_beside_it(folder: Path) -> None:
    report = compare_records(port(folder, eps), {})
    assert "eps 0.001; in reference with" in next(d.cause for d in report.differences if d.cause)
    report = compare_records(port(folder, momentum), {})
    assert "decay 0.99," in next(d.cause for d in report.differences if d.cause)


@pytest.mark.parametrize(
    "mistake, name", [(frozen, "norm.weight"), (detached_value, "heads.2.weight")]
)
def test_a_missing_gradient(folder: Path, mistake: Callable[[Any], Any], name: str) -> None:
    reference, mine = port(folder, mistake)
    report = compare_records([reference, mine], {})
    assert not report.passed
    found = report.findings[0]
    assert found.name == f"grad/{name}"
    assert re.fullmatch(f"{name} has no gradient in torch, one of size .+ in reference", found.text)
    assert not any(d.stage in ("local", "forward") and d.parted for d in report.differences)


def test_chance_is_found_and_named(folder: Path) -> None:
    from torch.nn import functional

    def change(model: Any) -> None:
        around(model, "drop", after=lambda layer, y: functional.dropout(y, 0.5, layer.training))

    _, mine = port(folder, change)
    assert mine.facts["random"][0] == "train/drop:out"
    assert any("random" in remark and "train/drop:out" in remark for remark in mine.remarks())


def test_other_inputs_are_refused(folder: Path, tmp_path: Path) -> None:
    from backends.torch import record as torch_record
    from parity_tests.records.test_record import on_device
    from parity_tests.records.torch_net import Net

    out, reference = tmp_path / "x.safetensors", folder / "reference.safetensors"
    torch_record(Net(), on_device("torch", IMAGES + 1), out=out, against=reference)
    with pytest.raises(InputError, match="x: made from other inputs than reference"):
        compare_records([read_record(reference), read_record(out)], {})


def test_a_missing_gradient_shows_without_weights(folder: Path, tmp_path: Path) -> None:
    from parity_tests.records.torch_net import Net

    model, reference = Net(), folder / "reference.safetensors"
    frozen(model)
    mine = record("torch", tmp_path, model=model, against=reference, weights=False)
    report = compare_records([read_record(reference), mine], {})
    assert [finding.name for finding in report.findings] == ["grad/norm.weight"]
    assert any("holds no weights" in remark for remark in mine.remarks())


def test_a_batch_norm_that_differs_shows_without_weights(folder: Path, tmp_path: Path) -> None:
    from parity_tests.records.torch_net import Net

    model, reference = Net(), folder / "reference.safetensors"
    eps(model)
    mine = record("torch", tmp_path, model=model, against=reference, weights=False)
    first = compare_records([read_record(reference), mine], {}).first("torch")
    assert first is not None and first.name == "local/eval/norm:out"
    assert "eps=0.001" in first.cause


def test_the_gradient_of_what_the_network_itself_owns_comes_last(tmp_path: Path) -> None:
    import torch

    from backends.torch import record as torch_record

    class Shifted(torch.nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.share, self.shift = share, torch.nn.Parameter(torch.zeros(4))
            self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            y = self.first(x + self.shift)
            return self.last(y * self.share + y.detach() * (1 - self.share))

    files = {side: tmp_path / f"{side}.safetensors" for side in "ab"}
    x = torch.randn(2, 4)
    torch_record(Shifted(1.0), x, generic=0, loss=torch.sum, out=files["a"])
    torch_record(Shifted(0.5), x, loss=torch.sum, against=files["a"], out=files["b"])
    first = compare_records([read_record(path) for path in files.values()], {}).first("b")
    assert first is not None
    assert first.where_it_is == "grad/first.weight, on the way back from last to first"


def test_nothing_paired_is_refused(folder: Path) -> None:
    reference, mine = port(folder, lambda model: None)
    with pytest.raises(InputError, match="torch: no layer is paired with one of reference"):
        compare_records([reference, mine], {"torch": Map(())})


@pytest.mark.parametrize(
    "entry, message",
    [
        (Entry("stem.weight", "nothing"), "map: nothing is no tensor of the model"),
        (Entry("nothing", "stem.weight"), "map: nothing is no tensor of reference"),
        (Entry("stem.weight", "stem.weight", "o i h w -> i o h w"), "map: stem.weight makes"),
        (
            Entry("stem.weight", "stem.weight", "o i -> i o"),
            r"map: stem.weight \(8, 3, 3, 3\) to stem.weight: 'o i -> i o' does not fit",
        ),
    ],
)
def test_a_map_that_does_not_fit(folder: Path, tmp_path: Path, entry: Entry, message: str) -> None:
    from parity_tests.records.torch_net import Net

    Map((entry,)).write(tmp_path / "map.toml")
    files = {"against": folder / "reference.safetensors", "map": tmp_path / "map.toml"}
    with pytest.raises(InputError, match=message):
        record("torch", tmp_path, model=Net(), **files)


def test_a_tensor_is_put_together_of_its_parts(tmp_path: Path) -> None:
    """Attention against attention: query, key and value of either are parts of one tensor."""
    import torch

    from backends.torch import record as torch_record

    files = {side: tmp_path / f"{side}.safetensors" for side in "ab"}
    model, x = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    torch_record(model, x, x, x, generic=0, out=files["a"])
    whole = read_record(files["a"]).arrays["weight/in_proj_weight"]
    port = torch_record(model, x, x, x, against=files["a"], out=files["b"])
    assert (port.arrays["weight/in_proj_weight"] == whole).all()
    name = "in_proj_weight"
    Map((Entry(name, name, part=(0, 3), into=(0, 3)),)).write(tmp_path / "map.toml")
    with pytest.raises(InputError, match="map: in_proj_weight: a part of it is missing"):
        more = {"against": files["a"], "map": tmp_path / "map.toml"}
        torch_record(model, x, x, x, out=files["b"], **more)


def test_a_part_of_a_large_network(folder: Path, tmp_path: Path) -> None:
    whole = read_record(folder / "reference.safetensors")
    part = record("torch", tmp_path, generic=0, keep="heads.*", weights=False)
    own = {name: array for name, array in part.arrays.items() if ":" in name}
    assert {name.split("/")[1].split(":")[0] for name in own} == {"heads.0", "heads.1", "heads.2"}
    assert not [name for name in part.arrays if name.startswith("weight/")]
    names = {*own, "grad/stem.weight", "loss", "eval/output.classes"}
    assert all((part.arrays[name] == whole.arrays[name]).all() for name in names)
    report = compare_records([whole, part], {})
    assert report.passed
    assert {d.layer for d in report.differences if d.stage == "forward"} >= {"heads.1"}
    with pytest.raises(InputError, match="torch: holds no weights: made with weights=False"):
        from parity_tests.records.torch_net import Net

        record("torch", folder, model=Net(), against=tmp_path / "torch.safetensors")


def test_what_is_not_kept_is_not_held(tmp_path: Path) -> None:
    """A network whose activations do not fit into memory can be recorded in part."""
    from torch import nn

    made: list[weakref.ref[Any]] = []
    alive: list[int] = []
    model: Any = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(6)))
    for layer in model[:4]:
        layer.register_forward_hook(lambda layer, x, y: made.append(weakref.ref(y)))
    model[5].register_forward_hook(
        lambda layer, x, y: alive.append(sum(r() is not None for r in made))
    )
    record("torch", tmp_path, model=model, loss=None, keep="1")
    assert alive and set(alive) == {0}


def test_what_is_done_elsewhere_is_healed(folder: Path) -> None:
    """A ReLU folded into the layer before it, where it does no harm."""
    from torch import nn

    class Folded(nn.BatchNorm2d):
        def forward(self, x: Any) -> Any:
            return super().forward(x).relu()

    def change(model: Any) -> None:
        model.norm.__class__ = Folded
        model.rectify.inplace = False

    report = compare_records(port(folder, change), {})
    assert report.passed
    healed = {d.name for d in report.differences if d.status == "healed"}
    assert healed == {
        f"{run}{mode}/norm:out" for run in ("", "local/") for mode in ("eval", "train")
    }
    assert (
        "4 values of torch differ, the first local/eval/norm:out, made by BatchNorm2d, and are"
        in (report.verdict())
    )
