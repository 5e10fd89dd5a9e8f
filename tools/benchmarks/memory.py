"""The most memory that a process has held."""

import subprocess
import sys
from pathlib import Path
from typing import Sequence


def peak() -> float:
    """Of this process so far, bytes. Not ru_maxrss, which begins with what the parent held when it forked."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * int(line.split()[1])


def peak_of(script: str, arguments: Sequence[str]) -> float:
    """Bytes that a run of a script prints as its own."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)
