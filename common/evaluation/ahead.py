"""Work done ahead by threads, in order, so that memory stays flat however long the list is."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
"""Few: each of them holds a whole image."""


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS
) -> Iterator[Result]:
    """`function` of each item, in order, those of the next items in the making meanwhile.

    At most `threads + 1` results are held here, and no item is taken before there is room for its
    result. What `function` raises comes when that item's turn does.
    """
    pool = ThreadPoolExecutor(threads)
    ahead: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
