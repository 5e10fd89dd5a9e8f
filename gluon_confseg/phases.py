"""Phases of the work, by the clock, while somebody measures them (see profiling.py)."""

import contextlib
import threading
import time
from typing import Callable, Dict, Iterable, Iterator, Optional, TypeVar

T = TypeVar("T")


class _Clock:
    """Seconds of each phase; those of several threads add up."""

    def __init__(self):
        self.seconds: Dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


_clock: Optional[_Clock] = None  # while somebody measures


@contextlib.contextmanager
def measured() -> Iterator[Dict[str, float]]:
    """Gives seconds by phase, complete at its end. One at a time in a process."""
    global _clock
    _clock = clock = _Clock()
    try:
        yield clock.seconds
    finally:
        _clock = None


@contextlib.contextmanager
def phase(name: str, wait: Optional[Callable[[], None]] = None) -> Iterator[None]:
    """What is done inside counts as `name`, while somebody measures.

    `wait` is for work that goes on elsewhere (MXNet's): it is called at the end, and only while somebody measures.
    """
    clock = _clock
    if clock is None:
        yield
        return
    started = time.perf_counter()
    try:
        yield
    finally:
        if wait is not None:
            wait()
        clock.add(name, time.perf_counter() - started)


def waiting(items: Iterable[T], name: str) -> Iterator[T]:
    """The same items; the time until each comes counts as the phase `name`."""
    iterator = iter(items)
    with contextlib.ExitStack() as stack:
        if hasattr(iterator, "close"):
            stack.callback(iterator.close)  # threads behind a generator end with this one
        while True:
            try:
                with phase(name):
                    item = next(iterator)
            except StopIteration:
                return
            yield item
