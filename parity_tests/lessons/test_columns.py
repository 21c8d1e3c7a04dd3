"""Three texts beside each other: where their lines stand, their colours, their twins."""

from pathlib import Path

import pytest

from backends import BACKENDS
from common.errors import InputError
from scripts.lessons.columns import align, units
from scripts.lessons.dictionary import Idea, Things
from scripts.lessons.highlight import highlight, imports, with_twins
from scripts.shared.sources import snippet

ROOT = Path(__file__).parents[2]
PLACES = [
    [("loss.py", "cross_entropy")] * 3,
    [("model.py", "FCN")] * 3,
    [("train.py", "Trainer.logits")] * 3,
    [("layers.py", "batch_norm"), ("layers.py", "batch_norm"), ("layers.py", "_BatchNorm")],
]


def codes(places: list[tuple[str, str]]) -> list[str]:
    found = zip(BACKENDS, places, strict=True)
    return [snippet(ROOT / "backends" / backend / file, name) for backend, (file, name) in found]


def test_a_text_is_statements_and_comments() -> None:
    code = (
        "@cached\ndef f(\n    x: int,  # inside\n) -> int:\n    # why,\n    # in two lines\n"
        "    # differs(key): another\n    if x:\n        return g(\n            x\n        )\n"
        "    else:  # differs(other): at an end\n        return 1\n"
    )
    found = units(code)
    assert [len(unit.lines) for unit in found] == [1, 3, 2, 1, 1, 3, 1, 1]
    assert [unit.kind for unit in found][1:5] == ["def", "#", "#", "if"]
    assert {k: unit.key for k, unit in enumerate(found) if unit.key} == {3: "key", 6: "other"}
    assert "inside" not in found[1].words and found[1].words["x"] == 1


def test_a_comment_that_is_a_body_is_of_its_function(tmp_path: Path) -> None:
    """No docstring is shown, and no comment left out: neither the last nor the only one."""
    path = tmp_path / "f.py"
    path.write_text(
        'class C:\n    def f(self):\n        """Says."""\n        # why\n\n    # of g\n'
        "    def g(self):\n        return 1\n        # last\n\n\n# of none\n"
    )
    assert snippet(path, "C.f") == "def f(self):\n    # why\n"
    assert snippet(path, "C.g") == "def g(self):\n    return 1\n    # last\n"


@pytest.mark.parametrize("places", PLACES)
def test_every_line_stands_once_and_in_order(places: list[tuple[str, str]]) -> None:
    texts = codes(places)
    rows = align(texts)
    for column, text in enumerate(texts):
        lines = [line for row in rows for unit in row.cells[column] for line in unit.lines]
        assert "\n".join(lines) + "\n" == text


@pytest.mark.parametrize("places", PLACES)
def test_a_difference_stands_at_one_height(places: list[tuple[str, str]]) -> None:
    texts = codes(places)
    keys = [key for row in align(texts) for key in row.keys]
    assert keys and len(set(keys)) == len(keys)
    assert set(keys) == {unit.key for text in texts for unit in units(text)} - {None}


def test_what_is_alike_stands_beside_and_what_is_not_in_between() -> None:
    texts = (
        "def f(a):\n    x = one(a)\n    y = two(a)\n    return x\n",
        "def f(a):\n    import this\n    return x\n",
        "def f(a):\n    x = one(a)\n    raise OSError\n    return x\n",
    )
    shown = [tuple(len(cell) for cell in row.cells) for row in align(texts)]
    assert shown == [(1, 1, 1), (1, 0, 1), (1, 1, 1), (1, 1, 1)]


def test_a_key_in_another_order_is_refused() -> None:
    one, other = "# differs(a): x", "# differs(b): y"
    with pytest.raises(InputError, match="another order"):
        align([f"{one}\n{other}\n", f"{other}\n{one}\n", ""])


IDEAS = [
    Idea("a", "first", {"torch": ("torch.cat",), "mxnet": ("mxnet.nd.concat",), "jax": ()}, ""),
    Idea("a", "second", {"torch": ("torch.Tensor.mean",), "mxnet": ("mxnet.nd.mean",)}, ""),
]


def test_names_have_twins_by_the_dictionary_or_by_being_the_same() -> None:
    torch, mxnet = "torch.cat(x, y.mean())\nself.only\n", "F.concat(x, F.mean(y))\nself.here\n"
    things = Things(IDEAS)
    known = {"torch": "torch", "F": "mxnet.nd"}
    columns = [highlight(torch, "torch", known, things), highlight(mxnet, "mxnet", known, things)]
    twins = [
        {token.text: token.things for line in lines for token in line.tokens if token.things}
        for lines in with_twins(columns)
    ]
    assert twins[0] == {"cat": {"#0"}, "mean": {"#1", "mean"}, "x": {"x"}, "y": {"y"}}
    assert twins[1] == {"concat": {"#0"}, "mean": {"#1", "mean"}, "x": {"x"}, "y": {"y"}}


def test_colours_leave_the_text_as_it_is() -> None:
    path = ROOT / "backends" / "torch" / "train.py"
    lines = highlight(path.read_text())
    assert ["".join(t.text for t in line.tokens) for line in lines] == path.read_text().split("\n")[
        :-1
    ]
    assert {token.style for line in lines for token in line.tokens} >= set("cksmfdo")
    assert imports(path)["DistributedDataParallel"] == "torch.nn.parallel.DistributedDataParallel"
