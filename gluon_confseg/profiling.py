"""Where a stage's time goes: MXNet's operators by kind, and phases of the work by the clock."""

import contextlib
import json
import os
import threading
import time
from typing import Dict, Iterable, Iterator, List, Optional, TypeVar

from .backend import mx
from .table import Table

T = TypeVar("T")

KINDS = {  # by the beginning of the operator's name, without _backward_
    "convolutions": ("Convolution", "Deconvolution"),
    "normalisation, activation": ("BatchNorm", "Activation"),
    "updates": ("sgd_", "multi_sgd", "preloaded_multi_sgd"),
}
OTHER = "other operators (loss, resizing, sums)"


class _Clock:
    """Seconds of each phase; those of several threads add up."""

    def __init__(self):
        self.seconds: Dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


_clock: Optional[_Clock] = None  # of the stage that is being profiled


@contextlib.contextmanager
def profiled(found: Dict[str, float]) -> Iterator[None]:
    """Fill `found` with seconds: "wall", the operators' by kind, the phases' by name. One at a time in a process.

    Operators run beside Python and, with several devices, beside each other: their sum may exceed the wall clock.
    """
    global _clock
    # what counts is the aggregate, taken by dumps; MXNet writes the single events at exit, whatever is asked for
    options = {"profile_symbolic": True, "profile_imperative": True, "profile_api": False, "aggregate_stats": True}
    mx.profiler.set_config(filename=os.devnull, **options)
    mx.profiler.set_state("run")
    _clock, started = _Clock(), time.perf_counter()
    try:
        yield
    finally:
        mx.nd.waitall()
        found["wall"] = time.perf_counter() - started
        mx.profiler.set_state("stop")
        clock, _clock = _clock, None
        measured = json.loads(mx.profiler.dumps(reset=True, format="json"))["Time"]
        found.update(_by_kind(measured.get("operator", {})))
        found.update(clock.seconds)


def _by_kind(operators: Dict[str, Dict[str, float]]) -> Dict[str, float]:
    """Seconds; MXNet gives milliseconds."""
    seconds = dict.fromkeys((*KINDS, OTHER), 0.0)
    for name, values in operators.items():
        bare = name.replace("_backward_", "").lstrip("_")
        kind = next((kind for kind, beginnings in KINDS.items() if bare.startswith(beginnings)), OTHER)
        seconds[kind] += values["Total"] / 1000
    return seconds


@contextlib.contextmanager
def phase(name: str, *, waits: bool = False) -> Iterator[None]:
    """What is done inside counts as `name`, where a stage is being profiled.

    With `waits` it is MXNet that does it: then, and only where a stage is being profiled, the end of it is waited for.
    """
    clock, started = _clock, time.perf_counter()
    try:
        yield
    finally:
        if clock is not None:
            if waits:
                mx.nd.waitall()
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


def table(stages: Dict[str, Dict[str, float]]) -> Table:
    """A row per stage: seconds by the clock, and what they went into, in percent of the clock."""
    columns: List[str] = list(dict.fromkeys(key for found in stages.values() for key in found if key != "wall"))
    rows = [
        [stage, f"{found['wall']:.1f}", *(f"{100 * found.get(key, 0) / found['wall']:.0f}" for key in columns)]
        for stage, found in stages.items()
    ]
    note = "percent of the seconds; operators run beside Python, so a row may add up to more or less than 100"
    return Table("where the time went", ["stage", "seconds", *columns], rows, [note])
