"""A function's results in order, computed ahead by threads."""

import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, TypeVar

T = TypeVar("T")


def usable_cores(most: int = 8) -> int:
    """The cores that this process may use, at most `most`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(most, cores)


def in_order(function: Callable[[int], T], items: Iterable[int], workers: int, ahead: int) -> Iterator[T]:
    """function(item) for each item, in order, computed by `workers` threads, at most `ahead` results in advance.

    What the function raises is raised here. Threads end with the generator, also when it is closed early.
    """
    remaining = iter(items)
    pending = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="confseg-data")
    try:
        pending.extend(pool.submit(function, item) for item in itertools.islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)
