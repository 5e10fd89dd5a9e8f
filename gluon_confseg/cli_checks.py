"""Verbs to ask before a run: what the machine can, whether the data are sound, what a network costs."""

from pathlib import Path
from typing import Optional, Tuple

import click

from .options import parse_size
from .places import config_path


@click.command()
def doctor() -> int:
    """Say what this machine and installation can run, with the line that mends what they cannot.

    The exit code is 1 where something prevents running.
    """
    from . import doctor as examination

    return examination.examine()


@click.command("check-data")
@click.argument("name")
@click.option("--data-root", metavar="DIR", help="The data set. Default: as for confseg run.")
@click.option("--split", "splits", metavar="NAME", multiple=True, help="May be repeated. Default: the config's two.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that read. Default: a core each, at most 8.")
@click.option("--output", metavar="FILE", help="Write all that is found to this JSON file. Default: only print.")
def check_data(
    name: str, data_root: Optional[str], splits: Tuple[str, ...], workers: Optional[int], output: Optional[str]
) -> int:
    """Read a whole data set and list what is wrong with it; the exit code is 1 where something is. Needs no MXNet.

    NAME is a config, as for confseg run. Found are files that are missing, damaged or of another size, unknown ids,
    labels without a class, classes without a pixel, and images that occur twice, in one split or in two.
    """
    from . import checking

    options = {"data_root": data_root, "splits": splits, "workers": workers, "output": output}
    return 0 if checking.check_data(config_path(name), **options) else 1


@click.command()
@click.argument("network", metavar="NETWORK")
@click.option("--size", required=True, metavar="HxW", help="Size of the network's input.")
@click.option("--cell", metavar="KEY", help="Cell of the result table. Default: the paper's last one.")
@click.option("--data-root", metavar="DIR", help="The data set; wanted only for a config of data.name: folders.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of the config.")
def info(network: str, size: str, cell: Optional[str], data_root: Optional[str], overrides: Tuple[str, ...]) -> None:
    """Print what a network costs: parameters, multiply-adds, memory, for encoder and each subnet.

    NETWORK is a config, as for confseg run, which needs no weights, or a finished run's folder.
    """
    is_run = Path(network).is_dir()
    path = Path(network) if is_run else config_path(network)
    from . import info as describing

    described = describing.describe(path, is_run=is_run, cell=cell, overrides=overrides, data_root=data_root)
    print(describing.table(described, parse_size(size)))
