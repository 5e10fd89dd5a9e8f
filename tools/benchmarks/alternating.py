"""Alternatives measured by turns in one process, so that a busy machine slows all of them alike."""

import statistics
import time
from typing import Callable, Dict, List

from tabulate import tabulate


def measure(cases: Dict[str, Callable[[], None]], repeats: int) -> Dict[str, List[float]]:
    """Seconds of each case in `repeats` turns, after one that does not count; a case must wait for its own end."""
    seconds: Dict[str, List[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Dict[str, List[float]], name: str, against: str) -> float:
    """Median over the turns of how many times as long `name` took as `against` in the same turn."""
    return statistics.median(ours / theirs for ours, theirs in zip(seconds[name], seconds[against]))


def table(seconds: Dict[str, List[float]], against: str) -> str:
    """Markdown: median, lowest and highest of the seconds, ratio to the case `against`."""
    rows = [
        [name, *(f"{f(values):.3f}" for f in (statistics.median, min, max)), f"{ratio(seconds, name, against):.3f}"]
        for name, values in seconds.items()
    ]
    headers = ["case", "median s", "lowest", "highest", f"ratio to {against}"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
