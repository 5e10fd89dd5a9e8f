"""How much of a training step convolutions take: encoder and subnet 0, cross-entropy at full resolution.

    OMP_NUM_THREADS=1 python tools/benchmarks/convolutions.py small
    OMP_NUM_THREADS=2 python tools/benchmarks/convolutions.py resnet101 --crop 504x504

The networks of pytorch.py; random images. Percent of the seconds by the clock, by MXNet's profiler, after a step that
does not count. Wanted of a run's training stages: 85 %.
"""

from statistics import median
from typing import Dict, Optional

import click
from pytorch import our_step
from tabulate import tabulate

from gluon_confseg.options import parse_size
from gluon_confseg.profiling import KINDS, OTHER, profiled


@click.command()
@click.argument("name", type=click.Choice(["small", "resnet101"]), default="small")
@click.option("--crop", help="Default: that of pytorch.py.")
@click.option("--repeats", default=5, show_default=True)
def main(name: str, crop: Optional[str], repeats: int) -> None:
    run, _ = our_step(name, crop and parse_size(crop))
    steps = []
    for _ in range(repeats):
        found: Dict[str, float] = {}
        with profiled(found):
            run()
        steps.append(found)
    shares = {kind: [100 * step[kind] / step["wall"] for step in steps] for kind in (*KINDS, OTHER)}
    rows = [[kind, *(f"{f(found):.1f}" for f in (median, min, max))] for kind, found in shares.items()]
    print(f"{name}, crop {crop or 'of pytorch.py'}: median {median(step['wall'] for step in steps):.3f} s a step\n")
    print(tabulate(rows, ["operators", "median %", "lowest", "highest"], tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
