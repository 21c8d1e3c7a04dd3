"""The solutions of the lessons' exercises: the same functions, run in each framework."""

import ast
import functools
import importlib
import math
import re
from pathlib import Path

import pytest

from backends import load_backend
from parity_tests.test_structure import parse, public_names
from scripts.lessons.exercises import Answers

ROOT = Path(__file__).parents[2]
EXERCISES = ROOT / "scripts" / "lessons" / "exercises"
SOLUTION = re.compile(r"^```solution\n(\w+)$", re.M)
ASKED = {
    path.name: SOLUTION.findall(path.read_text())
    for path in sorted((ROOT / "docs" / "lessons").glob("[0-9]*.md"))
}
"""The solutions of each lesson's exercises."""


def docstrings(backend: str) -> dict[str, str | None]:
    """What each solution of a framework says of itself, in their order."""
    nodes = parse(EXERCISES / f"{backend}.py").body
    return {
        node.name: ast.get_docstring(node) for node in nodes if isinstance(node, ast.FunctionDef)
    }


SOLUTIONS = docstrings("torch")

BY_HAND: dict[str, Answers] = {
    "picture_to_channels": {
        "transposed": [0, 3, 6, 9, 12, 15],
        "reshaped": [0, 1, 2, 3, 4, 5],
    },
    "same_is_shifted": {"SAME": [9.0, 9.0, 9.0, 6.0], "padding 1": [4.0, 6.0, 6.0, 6.0]},
    "in_and_out_swapped": {"right": [36.0, 198.0], "swapped": [36.0, 117.0]},
    "bn_two_batches": {"mean": 1.375, "variance": 1.4375},
    "bn_beside_another": {
        "eval": [1 / math.sqrt(1 + 1e-5)] * 2,
        "train": [-2 / math.sqrt(8 / 3 + 1e-5), -4 / math.sqrt(56 / 3 + 1e-5)],
    },
    "zero_block_passes_on": {"output": [0.0, 2.0], "gradient": [0.0, 1.0]},
    "fading_border": {"corner": 0.75**2, "edge": 0.75, "middle": 1.0},
    "gradient_of_a_convolution": {
        "gradient": [1.0, 2.0, 3.0 + 2.0, 4.0, 6.0],
        "transposed": [1.0, 2.0, 3.0 + 2.0, 4.0, 6.0],
    },
    "mean_of_means": {
        "over pixels": (math.log(4) + 4 * math.log(4 / 3)) / 5,
        "of means": (math.log(4) + math.log(4 / 3)) / 2,
    },
    "gradient_of_void": {"class 0": [-0.25, 0.25], "void": [0.0, 0.0], "loss, all void": 0.0},
}
"""What a reader predicts with pencil and paper, where that can be done."""


def solve(backend: str, name: str) -> Answers:
    load_backend(backend)  # before all else: it sets the framework up
    solutions = importlib.import_module(f"scripts.lessons.exercises.{backend}")
    found: Answers = getattr(solutions, name)()
    return found


def differs(docstring: str | None) -> bool:
    """Whether a solution finds something else in each framework."""
    return docstring is not None and docstring.endswith("(differs)")


reference = functools.cache(functools.partial(solve, "torch"))


def same(a: object, b: object, tolerance: float) -> bool:
    """Whether two answers are: of one type, numbers within a relative tolerance."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance)
    return type(a) is type(b) and a == b


def is_plain(answer: object) -> bool:
    """Whether an answer is Python's own number, word or flag, or a list of one kind of them."""
    if isinstance(answer, list):
        return all(map(is_plain, answer)) and len({*map(type, answer)}) == 1
    return type(answer) in (float, int, str, bool)


def test_the_same_solutions_in_the_same_order(backend: str) -> None:
    assert public_names(EXERCISES / f"{backend}.py") == [f"def {name}()" for name in SOLUTIONS]


def test_a_solution_says_in_a_line_what_it_shows(backend: str) -> None:
    for name, text in docstrings(backend).items():
        assert text and "\n" not in text, name
        assert differs(text) == differs(SOLUTIONS[name]), name


def test_each_lesson_has_two_exercises_or_more_and_each_solution_is_one_s() -> None:
    assert min(len(names) for names in ASKED.values()) >= 2
    assert [name for names in ASKED.values() for name in names] == [*SOLUTIONS]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_finds_the_same_in_each_framework(backend: str, name: str) -> None:
    found, expected = solve(backend, name), reference(name)
    assert all(map(is_plain, found.values())), found
    assert list(found) == list(expected)
    if not differs(SOLUTIONS[name]):
        assert all(same(found[key], expected[key], 1e-12) for key in found), (found, expected)


@pytest.mark.parametrize("name", BY_HAND)
def test_what_can_be_worked_out_by_hand(name: str) -> None:
    found, expected = reference(name), BY_HAND[name]
    assert list(found) == list(expected)
    assert all(same(found[key], expected[key], 1e-6) for key in found), (found, expected)


@pytest.mark.parametrize(
    "a, b, alike",
    [
        (1.0, 1.0 + 1e-13, True),
        (1.0, 1.0 + 1e-11, False),
        ([0.0, 1.0], [0.0, 1.0], True),
        ([0.0], [0.0, 1.0], False),
        (1, 1.0, False),
        ("1", "2", False),
    ],
)
def test_what_is_the_same(a: object, b: object, alike: bool) -> None:
    assert same(a, b, 1e-12) is alike
