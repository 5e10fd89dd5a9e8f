"""Where a stage's time goes: MXNet's operators by kind, and the phases of Python that they wait for."""

import contextlib
import json
import time
from typing import Dict, Iterable, Iterator, List, TypeVar

from .backend import mx
from .table import Table

T = TypeVar("T")

KINDS = {  # by the beginning of the operator's name, without _backward_
    "convolutions": ("Convolution", "Deconvolution"),
    "normalisation, activation": ("BatchNorm", "Activation"),
    "updates": ("sgd_", "multi_sgd", "preloaded_multi_sgd"),
}
OTHER = "other operators (loss, resizing, sums)"
_HOST = "host"  # MXNet's name of the group that the phases are in
_tasks: Dict[str, mx.profiler.Task] = {}  # phases seen so far; none is added while no stage is profiled
_running = False


@contextlib.contextmanager
def profiled(found: Dict[str, float]) -> Iterator[None]:
    """Fill `found` with seconds: "wall", the operators' by kind, the phases' by name. One at a time in a process.

    Operators run beside Python and, with several devices, beside each other: the sum may exceed the wall clock.
    """
    global _running
    # the file is never written: what counts is the aggregate, taken by dumps
    mx.profiler.set_config(profile_symbolic=True, profile_imperative=True, profile_api=False, aggregate_stats=True)
    mx.profiler.set_state("run")
    _running, started = True, time.perf_counter()
    try:
        yield
    finally:
        mx.nd.waitall()
        found["wall"] = time.perf_counter() - started
        mx.profiler.set_state("stop")
        _running = False
        measured = json.loads(mx.profiler.dumps(reset=True, format="json"))["Time"]
        found.update(_by_kind(measured.get("operator", {})))
        found.update({name: values["Total"] / 1000 for name, values in measured.get(_HOST, {}).items()})


def _by_kind(operators: Dict[str, Dict[str, float]]) -> Dict[str, float]:
    """Seconds; MXNet gives milliseconds."""
    seconds = dict.fromkeys((*KINDS, OTHER), 0.0)
    for name, values in operators.items():
        bare = name.replace("_backward_", "").lstrip("_")
        kind = next((kind for kind, beginnings in KINDS.items() if bare.startswith(beginnings)), OTHER)
        seconds[kind] += values["Total"] / 1000
    return seconds


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """What is done inside counts as `name`, where a stage is being profiled."""
    if not _running:
        yield
        return
    if name not in _tasks:
        _tasks[name] = mx.profiler.Domain(_HOST).new_task(name)
    _tasks[name].start()
    try:
        yield
    finally:
        _tasks[name].stop()


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
