"""How long the command line takes to start, and whether it imports MXNet.

    python tools/benchmarks/start_up.py [--repeats 9]

Wanted: at most 0.3 s and no MXNet for --help and for confseg confusion, here on two pairs of small label maps.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

import click
import numpy as np
from alternating import measure
from PIL import Image

PROGRAM = """
import sys
sys.argv = ["confseg", *sys.argv[1:]]
from gluon_confseg.cli import main
try:
    main()
finally:
    print("imports MXNet" if "mxnet" in sys.modules else "no MXNet", file=sys.stderr)
"""


def run(arguments: List[str]) -> str:
    """What it says of MXNet."""
    start = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(start, capture_output=True, text=True, check=True).stderr.splitlines()[-1]


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("predictions", "truth")]
        for folder in folders:
            folder.mkdir()
            for number in range(2):
                Image.fromarray(np.full((64, 128), number, np.uint8)).save(folder / f"{number}.png")
        counting = ["confusion", *map(str, folders), "--classes", "camvid", "--output", str(Path(scratch) / "out")]
        counting += ["--prediction-encoding", "train-ids", "--truth-encoding", "train-ids"]
        cases: Dict[str, List[str]] = {"--help": ["--help"], "confusion --help": ["confusion", "--help"]}
        cases["confusion, two pairs"] = counting
        seconds = measure({name: lambda a=arguments: run(a) for name, arguments in cases.items()}, repeats)
        for name, values in seconds.items():
            print(
                f"confseg {name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f}), ", end=""
            )
            print(run(cases[name]))


if __name__ == "__main__":
    main()
