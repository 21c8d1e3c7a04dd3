"""Maps between the tensors of two networks: their file, both directions, and what is proposed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.parity.mapping import Entry, Map, read_map
from common.parity.matching import match
from common.parity.records import FORMAT, Layer, Record, Tensor
from common.protocol import Arrays

RANDOM = np.random.default_rng(3)

ENTRIES = [
    Entry("conv", "kernel", "o i h w -> h w i o"),
    Entry("up", "up_kernel", "i o h w -> h w i o", flip="h w"),
    Entry("packed", "query", "(n d) i -> i n d", {"n": 2}, part=(0, 3)),
    Entry("packed", "key", "(n d) i -> i n d", {"n": 2}, part=(1, 3)),
    Entry("packed", "value", "(n d) i -> i n d", {"n": 2}, part=(2, 3)),
    Entry("q", "qk", into=(0, 2)),
    Entry("k", "qk", into=(1, 2)),
    Entry("flat", "dense", "o (c h w) -> (h w c) o", {"h": 2, "w": 3}),
    Entry('a "name"\n', "\N{GREEK SMALL LETTER ALPHA}"),
]
SHAPES = {"conv": (4, 3, 2, 5), "up": (3, 4, 2, 2), "packed": (18, 5), "q": (2, 2), "k": (2, 2)}
SHAPES |= {"flat": (4, 24), 'a "name"\n': (7,)}


def tensors() -> Arrays:
    return {name: RANDOM.normal(size=shape) for name, shape in SHAPES.items()}


def test_a_map_goes_both_ways() -> None:
    found, start = Map(tuple(ENTRIES)), tensors()
    there = found.to_b(start)
    assert there["kernel"].shape == (2, 5, 3, 4)
    assert there["query"].shape == (5, 2, 3)
    assert np.array_equal(there["up_kernel"][0, 1], start["up"][:, :, 1, 0])
    assert np.array_equal(there["qk"], np.concatenate([start["q"], start["k"]]))
    image = start["flat"][1].reshape(4, 2, 3)
    assert np.array_equal(there["dense"][:, 1], image.transpose(1, 2, 0).ravel())
    back = found.to_a(there)
    assert back.keys() == start.keys()
    assert all(np.array_equal(back[name], start[name]) for name in start)


def test_what_lacks_a_part_is_left_out() -> None:
    found, start = Map(tuple(ENTRIES)), tensors()
    there = found.to_b(start)
    del there["key"]
    assert "packed" not in found.to_a(there)
    del start["k"]
    assert "qk" not in found.to_b(start)


def test_a_map_s_file(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    found = Map(tuple(ENTRIES), {"a": {"x.y": "b has none"}, "b": {}})
    found.write(path, "two\nlines")
    text = path.read_text()
    assert text.startswith("# two\n# lines\ntensor = [\n")
    assert '  {a = "conv", b = "kernel", axes = "o i h w -> h w i o"},\n' in text
    again = read_map(path)
    assert again.entries == found.entries
    assert again.unmatched == {"a": {"x.y": "b has none"}}


@pytest.mark.parametrize(
    "name", ["\N{GRINNING FACE}", "a\x7f", "a\x1b[31m", 'a"\\', "a\nb", "\xe4"]
)
def test_a_map_of_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "map.toml"
    found = Map((Entry(a=name, b="b"),), {"b": {name: name}})
    found.write(path, about=f"{name}, half a character: \udcff, and \0")
    again = read_map(path)
    assert (again.entries, again.unmatched) == (found.entries, found.unmatched)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"map\.toml: cannot be written: .* surrogates") as refused:
        Map((Entry(a="\ud800", b="b"),)).write(tmp_path / "map.toml")
    assert "\n" not in str(refused.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "text, message",
    [
        ("tensor = 3", "no map: it has no list `tensor`"),
        ("tensor = [3]", "tensor 1: "),
        ("[[tensor]]\na = 'x'", "tensor 1: "),
        ("[[tensor]]\na = 'x'\nb = 'y'\nc = 3", "tensor 1: "),
        ("[[tensor]]\na = 'x'\nb = 'y'\npart = [3, 3]", r"tensor 1: part \[3, 3\] is not \[k, n\]"),
        ("tensor = [", "no map: "),
        ("tensor = " + 10_000 * "[", "no map: nested too deep"),
        ("tensor = " + 5_000 * "9", "no map: "),
    ],
)
def test_what_is_no_map(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: {message}"):
        read_map(path)


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"map\.toml: no such file"):
        read_map(tmp_path / "map.toml")


def described(layers: dict[str, Any], together: bool = False) -> Record:
    """A record with nothing but layers, called in their order: kind; tensors, axes and shapes.

    `together`: all of them read the very same values.
    """
    held = {
        f"{path}.{own}": (axes, shape)
        for path, (_, tensors) in layers.items()
        for own, (axes, shape) in tensors.items()
    }
    arrays = {f"weight/{name}": np.zeros(shape) for name, (_, shape) in held.items()}
    order = [f"eval/{path}:{side}" for path in layers for side in ("in", "out")]
    arrays |= {name: np.full(1, k) for k, name in enumerate(order)}
    if together:
        arrays |= dict.fromkeys((n for n in order if n.endswith(":in")), np.zeros(1))
    record = Record("x", arrays, FORMAT | {"record": "{}"})
    record.__dict__["facts"] = {
        "layers": {
            path: vars(Layer(kind, {own: f"{path}.{own}" for own in tensors}))
            for path, (kind, tensors) in layers.items()
        },
        "sources": [],
        "tensors": {name: vars(Tensor(shape, axes, True)) for name, (axes, shape) in held.items()},
        "order": order,
        "noise": {},
    }
    return record


def pairs(a: Record, b: Record) -> dict[str, str]:
    return {e.a: e.b for e in match(a, b)[0].entries}


def test_a_convolution_of_one_pixel_is_a_dense_layer() -> None:
    a = described({"fc": ("Linear", {"weight": ("o i", (5, 8)), "bias": ("o", (5,))})})
    b = described({"c": ("Conv", {"kernel": ("h w i o", (1, 1, 8, 5)), "bias": ("o", (5,))})})
    entries = match(a, b)[0].entries
    assert [(e.a, e.b, e.axes) for e in entries] == [
        ("fc.weight", "c.kernel", "o i -> 1 1 i o"),
        ("fc.bias", "c.bias", ""),
    ]
    there = Map(entries).to_b({"fc.weight": np.ones((5, 8)), "fc.bias": np.ones(5)})
    assert there["c.kernel"].shape == (1, 1, 8, 5)


def test_a_layer_that_is_called_elsewhere_is_found() -> None:
    def conv(i: int, o: int) -> Any:
        return "Conv2d", {"weight": ("o i h w", (o, i, 3, 3))}

    a = described({"one": conv(3, 8), "two": conv(8, 8), "short": conv(3, 4), "last": conv(8, 2)})
    b = described({"w": conv(3, 4), "x": conv(3, 8), "y": conv(8, 8), "z": conv(8, 2)})
    assert pairs(a, b) == {
        "one.weight": "x.weight",
        "two.weight": "y.weight",
        "short.weight": "w.weight",
        "last.weight": "z.weight",
    }


def test_layers_of_a_user_s_own_class_are_paired_in_order_of_calls() -> None:
    """Words of their paths would pair the first `1` with `layers.1.norm`."""

    def norms(kind: str, *paths: str) -> Record:
        return described({path: (kind, {"weight": ("o", (4,))}) for path in paths})

    a = norms("BatchNorm2d", "1", "4.0.norm", "4.1.norm")
    b = norms("_BatchNorm", "first", "layers.0.norm", "layers.1.norm")
    assert pairs(a, b) == {
        "1.weight": "first.weight",
        "4.0.norm.weight": "layers.0.norm.weight",
        "4.1.norm.weight": "layers.1.norm.weight",
    }


def test_a_user_s_own_class_goes_with_the_layer_before_it() -> None:
    """Where one side calls its shortcut first, each norm is its convolution's all the same."""

    def block(norm: str, *convs: str) -> Record:
        shapes = {"one": (4, 3, 3, 3), "two": (4, 4, 3, 3), "short": (4, 3, 1, 1)}
        layers: dict[str, Any] = {}
        for conv in convs:
            layers[conv] = "Conv2d", {"weight": ("o i h w", shapes[conv])}
            layers[f"{conv}_norm"] = norm, {"weight": ("o", (4,))}
        return described(layers)

    a, b = block("BatchNorm2d", "one", "two", "short"), block("_BatchNorm", "short", "one", "two")
    assert pairs(a, b) == {name: name for name in a.tensors}


def test_words_tell_layers_apart_that_read_the_same() -> None:
    dense = ("Linear", {"weight": ("o i", (4, 4))})
    a = described({"attention.q": dense, "attention.k": dense, "attention.v": dense}, True)
    b = described({"self.value": dense, "self.query": dense, "self.key": dense}, True)
    assert pairs(a, b) == {
        "attention.q.weight": "self.query.weight",
        "attention.k.weight": "self.key.weight",
        "attention.v.weight": "self.value.weight",
    }
    # without words, or a model to try the orders on, the order of calls is a guess
    c = described({"l.0": dense, "l.1": dense, "l.2": dense}, True)
    found, guessed = match(c, b)
    assert guessed == ["l.0", "l.1", "l.2"]
    assert [e.b for e in found.entries] == [
        "self.value.weight",
        "self.query.weight",
        "self.key.weight",
    ]


def test_every_tensor_is_matched_or_has_a_reason() -> None:
    a = described(
        {
            "conv": ("Conv2d", {"weight": ("o i h w", (8, 3, 3, 3)), "bias": ("o", (8,))}),
            "odd": ("Odd", {"table": ("", (3, 5))}),
        }
    )
    b = described({"c": ("Conv", {"kernel": ("h w i o", (3, 3, 3, 8))})})
    found, _ = match(a, b)
    assert [e.a for e in found.entries] == ["conv.weight"]
    assert found.unmatched["a"] == {
        "conv.bias": "c has none",
        "odd.table": "no Odd of the other side fits (3, 5)",
    }


def test_gates_of_a_recurrent_layer() -> None:
    a = described({"r": ("LSTM", {"weight_ih_l0": ("", (16, 3)), "bias_hh_l0": ("o", (16,))})})
    b = described({"r": ("LSTM", {"l0_i2h_weight": ("", (16, 3)), "l0_h2h_bias": ("o", (16,))})})
    assert pairs(a, b) == {"r.weight_ih_l0": "r.l0_i2h_weight", "r.bias_hh_l0": "r.l0_h2h_bias"}
