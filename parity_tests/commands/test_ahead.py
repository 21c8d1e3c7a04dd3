"""Work done ahead: in order, no further ahead than allowed, and the fault at its turn."""

import threading
from collections.abc import Generator, Iterator

import pytest

from common.evaluation.ahead import map_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_items_are_taken_as_they_are_needed(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for k in range(20):
            taken.append(k)
            yield k

    results = map_ahead(lambda k: k * k, items(), threads)
    for k in range(20):
        assert next(results) == k * k
        assert len(taken) <= k + 1 + threads
    assert list(results) == []


def test_the_next_ones_are_made_while_one_is_used() -> None:
    """The third is made though nobody has asked for more than the first."""
    third = threading.Event()
    results = map_ahead(lambda k: third.set() if k == 2 else None, range(10), 2)
    next(results)
    assert third.wait(60)


def test_a_fault_comes_at_its_turn() -> None:
    results = map_ahead(lambda k: 6 // (3 - k), range(10), 2)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_runs_on_after_the_end() -> None:
    before, done = set(threading.enumerate()), list[int]()
    results = map_ahead(done.append, range(10), 2)
    next(results)
    assert isinstance(results, Generator)
    results.close()
    assert sorted(done) in ([0], [0, 1], [0, 1, 2])
    assert set(threading.enumerate()) <= before
