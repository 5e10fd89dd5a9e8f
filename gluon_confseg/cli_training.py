"""Verbs that train: a run, a study over seeds, a job of several workers."""

from pathlib import Path
from typing import Optional, Sequence, Tuple

import click

from .cli_options import allow_different_option, cpu_option, device_setting, gpus_option, restart_option
from .options import parse_seeds
from .places import CONFIGS, config_path


@click.command()
@click.argument("name")
@click.option(
    "--data-root",
    metavar="DIR",
    help="The data set. Default: the variable CITYSCAPES_DATASET, VOC_ROOT or CAMVID_ROOT, else built-in images.",
)
@click.option("--output", metavar="DIR", help="Folder of the results. Default: runs/NAME-seedN.")
@gpus_option
@cpu_option
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the run. Default: the config's.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting of the config, as in --set baseline.epochs=10. May be repeated.",
)
@restart_option
@allow_different_option
@click.option(
    "--profile",
    is_flag=True,
    help="Say where the time of each stage went; also in profile.json. Waits for each phase's end: slower.",
)
@click.option(
    "--kvstore", default="local", metavar="NAME", help="local, or under confseg launch: dist_sync, dist_device_sync."
)
def run(
    name: str,
    data_root: Optional[str],
    output: Optional[str],
    gpus: Optional[str],
    cpu: bool,
    seed: Optional[int],
    overrides: Tuple[str, ...],
    restart: bool,
    allow_different: bool,
    profile: bool,
    kvstore: str,
) -> None:
    """Run the whole method: baseline, confusion matrix, groups, subnets, fused evaluation.

    NAME is a config of experiments/configs (cityscapes, voc, camvid) or the path of a YAML. Run again, it continues.
    """
    path = config_path(name)
    settings = [*overrides, *device_setting(gpus, cpu), *([] if seed is None else [f"seed={seed}"])]
    from . import pipeline
    from .workers import joined

    options = {"data_root": data_root, "output": output, "restart": restart, "allow_different": allow_different}
    with joined(kvstore) as job:
        pipeline.run(path, overrides=settings, profile=profile, job=job, **options)


@click.command()
@click.argument("name")
@click.option("--study", "file", metavar="FILE", help="Cells, losses and seeds. Default: experiments/study.yaml.")
@click.option("--seeds", "numbers", metavar="0-4,7", help="Default: those of the study's file.")
@click.option("--cells", "keys", metavar="KEY,KEY...", help="Only the baseline and these cells. Default: all.")
@click.option("--data-root", metavar="DIR", help="The data set. Default: as for confseg run.")
@click.option("--output", metavar="DIR", help="Folder of the runs and tables. Default: runs/NAME-study.")
@gpus_option
@cpu_option
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of the config.")
@restart_option
@allow_different_option
def study(
    name: str,
    file: Optional[str],
    numbers: Optional[str],
    keys: Optional[str],
    data_root: Optional[str],
    output: Optional[str],
    gpus: Optional[str],
    cpu: bool,
    overrides: Tuple[str, ...],
    restart: bool,
    allow_different: bool,
) -> None:
    """Run a config with a study's cells over several seeds, and test the differences paired by seed.

    NAME is a config, as for confseg run. A seed has one baseline, and all its heads are trained in one pass. Run again,
    it continues; seeds and cells may be added later: only the heads that are missing are trained then.
    """
    path, settings = config_path(name), [*overrides, *device_setting(gpus, cpu)]
    seeds = None if numbers is None else parse_seeds(numbers)
    cells = () if keys is None else [key.strip() for key in keys.split(",")]
    from . import study as studies

    plan = studies.read(Path(file) if file else CONFIGS.parent / "study.yaml", seeds, cells)
    folder = Path(output) if output else Path("runs") / f"{path.stem}-study"
    options = {"data_root": data_root, "restart": restart, "allow_different": allow_different}
    studies.run(path, plan, folder, overrides=settings, **options)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--num-workers", "workers", required=True, type=click.IntRange(min=1), help="Number of workers.")
@click.option("-s", "--num-servers", "servers", type=click.IntRange(min=1), help="Default: as many as workers.")
@click.option("--launcher", default="local", metavar="NAME", help="local, ssh or mpi. Default: local.")
@click.option("-H", "--hostfile", metavar="FILE", help="For ssh and mpi: a machine a line.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.pass_context
def launch(
    context: click.Context,
    workers: int,
    servers: Optional[int],
    launcher: str,
    hostfile: Optional[str],
    command: Tuple[str, ...],
) -> None:
    """Start a command as several workers, with MXNet's launcher, and end all of them when one fails.

    COMMAND is, for example, confseg run NAME --kvstore dist_sync. See docs/distributed.md.
    """
    if command[0] == "confseg":
        _parse(context.find_root().command, command[1:])
    from . import launching

    launching.launch(command, workers=workers, servers=servers or workers, launcher=launcher, hostfile=hostfile)


def _parse(group: click.Group, words: Sequence[str]) -> None:
    """Parse a confseg command without running it: a mistake in it is told here, once, and not by every process."""
    context = click.Context(group, info_name="confseg", **group.context_settings)
    click.Command.parse_args(group, context, [*words])  # a group's own keeps the rest where only it finds it
    if not context.args:
        context.fail("Missing command.")
    name, command, rest = group.resolve_command(context, context.args)
    command.make_context(name, rest, parent=context)
