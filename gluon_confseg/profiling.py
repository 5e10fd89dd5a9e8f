"""Where a stage's time goes: MXNet's operators by kind, and phases of the work by the clock."""

import contextlib
import json
import os
import time
from typing import Dict, Iterator, List

from . import phases
from .backend import mx
from .table import Table

KINDS = {  # by the beginning of the operator's name, without _backward_
    "convolutions": ("Convolution", "Deconvolution"),
    "normalisation, activation": ("BatchNorm", "Activation"),
    "updates": ("sgd_", "multi_sgd", "preloaded_multi_sgd"),
}
OTHER = "other operators (loss, resizing, sums)"


@contextlib.contextmanager
def profiled(found: Dict[str, float]) -> Iterator[None]:
    """Fill `found` with seconds: "wall", the operators' by kind, the phases' by name. One at a time in a process.

    Operators run beside Python and, with several devices, beside each other: their sum may exceed the wall clock.
    """
    # what counts is the aggregate, taken by dumps; MXNet writes the single events at exit, whatever is asked for
    options = {"profile_symbolic": True, "profile_imperative": True, "profile_api": False, "aggregate_stats": True}
    mx.profiler.set_config(filename=os.devnull, **options)
    mx.profiler.set_state("run")
    started = time.perf_counter()
    try:
        with phases.measured() as seconds:
            yield
    finally:
        mx.nd.waitall()
        found["wall"] = time.perf_counter() - started
        mx.profiler.set_state("stop")
        measured = json.loads(mx.profiler.dumps(reset=True, format="json"))["Time"]
        found.update(_by_kind(measured.get("operator", {})))
        found.update(seconds)


def _by_kind(operators: Dict[str, Dict[str, float]]) -> Dict[str, float]:
    """Seconds; MXNet gives milliseconds."""
    seconds = dict.fromkeys((*KINDS, OTHER), 0.0)
    for name, values in operators.items():
        bare = name.replace("_backward_", "").lstrip("_")
        kind = next((kind for kind, beginnings in KINDS.items() if bare.startswith(beginnings)), OTHER)
        seconds[kind] += values["Total"] / 1000
    return seconds


def table(stages: Dict[str, Dict[str, float]]) -> Table:
    """A row per stage: seconds by the clock, and what they went into, in percent of the clock."""
    columns: List[str] = list(dict.fromkeys(key for found in stages.values() for key in found if key != "wall"))
    rows = [
        [stage, f"{found['wall']:.1f}", *(f"{100 * found.get(key, 0) / found['wall']:.0f}" for key in columns)]
        for stage, found in stages.items()
    ]
    notes = [
        "percent of the seconds. By operator: convolutions to other operators; they run beside Python and each other",
        "by phase: the rest, of which reading and augmenting run beside the training, in threads that add up",
        "MXNet is waited for at the end of each phase while it is measured, so a run with --profile takes longer",
        "heads: subnets and upsampling, forward and backward; loss: with its gradient, which its forward pass takes",
    ]
    return Table("where the time went", ["stage", "seconds", *columns], rows, notes)
