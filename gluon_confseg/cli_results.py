"""Verbs for what runs gave: a table over seeds, a page."""

from pathlib import Path
from typing import Tuple

import click

from .places import RESULTS


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--classes", is_flag=True, help="Print the per-class table of each run as well.")
def table(runs: Tuple[str, ...], classes: bool) -> None:
    """Print mean and standard deviation over runs that differ in the seed (Markdown).

    RUN is a run's folder or a results.json. Cells that not all of them have are left out, and named.
    """
    from . import results, seeds

    found = [results.read(Path(run) / "results.json" if Path(run).is_dir() else run) for run in runs]
    print("\n\n".join(each.markdown() for each in seeds.tables(found)))
    for each in found if classes else ():
        print(f"\nseed {each.seed}\n\n{results.class_table(each).markdown()}")


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--output", metavar="FILE", default="report.html", show_default=True, help="The page to write.")
def report(runs: Tuple[str, ...], output: str) -> None:
    """Write the paper's tables and figures, with what the runs gave beside them, as one HTML page.

    RUN is a run's folder or a results.json; runs that differ in the seed only are put together. Default: the committed
    results of this repository, and the newest run below runs.
    """
    from . import page

    page.write(output, page.read_sources(runs) if runs else page.default_sources(RESULTS, Path("runs")))
    print(f"the page is {output}")
