"""Work done ahead by threads, in order, so that memory stays flat however long the list is."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`function` of each item, in order, `workers` of them in the making while one is used.

    At most `workers + 1` results are held here, and no item is taken before there is room for its
    result. With 0 workers, each is made when it is asked for. What `function` raises comes when
    that item's turn does.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    ahead: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
