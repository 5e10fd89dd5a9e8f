"""The command line: `confseg <verb>`. Thin: each verb imports what it needs, so that --help is quick."""

import sys
from pathlib import Path
from typing import List, Optional, Tuple

import click

from . import __version__
from .errors import ConfsegError

CONFIGS = Path(__file__).resolve().parent.parent / "experiments" / "configs"
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Find out which classes a segmentation network confuses, and remove the confusion (Geng et al. 2018)."""


@cli.command()
@click.argument("name")
@click.option(
    "--data-root",
    metavar="DIR",
    help="The data set. Default: the variable CITYSCAPES_DATASET, VOC_ROOT or CAMVID_ROOT, else built-in images.",
)
@click.option("--output", metavar="DIR", help="Folder of the results. Default: runs/NAME-seedN.")
@click.option("--gpus", metavar="0,1", help="GPUs to use. Default: all that MXNet can use, else the CPU.")
@click.option("--cpu", is_flag=True, help="Use the CPU.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the run. Default: the config's.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting of the config, as in --set baseline.epochs=10. May be repeated.",
)
@click.option("--restart", is_flag=True, help="Redo the finished stages whose settings have changed, and what follows.")
def run(
    name: str,
    data_root: Optional[str],
    output: Optional[str],
    gpus: Optional[str],
    cpu: bool,
    seed: Optional[int],
    overrides: Tuple[str, ...],
    restart: bool,
) -> None:
    """Run the whole method: baseline, confusion matrix, groups, subnets, fused evaluation.

    NAME is a config of experiments/configs (cityscapes, voc, camvid) or the path of a YAML. Run again, it continues.
    """
    path = config_path(name)
    settings = [*overrides, *device_setting(gpus, cpu), *([] if seed is None else [f"seed={seed}"])]
    from . import pipeline

    pipeline.run(path, overrides=settings, data_root=data_root, output=output, restart=restart)


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--classes", is_flag=True, help="Print the per-class table of each run as well.")
def table(runs: Tuple[str, ...], classes: bool) -> None:
    """Print mean and standard deviation over runs that differ in the seed (Markdown).

    RUN is a run's folder or a results.json.
    """
    from . import results

    found = [results.read(Path(run) / "results.json" if Path(run).is_dir() else run) for run in runs]
    print(results.seeds_table(found))
    for each in found if classes else ():
        print(f"\nseed {each.seed}\n\n{results.class_table(each)}")


def config_path(name: str) -> Path:
    """The YAML that a name or path stands for; ConfsegError lists the names there are."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("[!_]*.yaml"))) or f"none in {CONFIGS}"
        raise ConfsegError(f"there is no config {name!r}; there are: {names}; or give the path of a YAML")
    return path


def device_setting(gpus: Optional[str], cpu: bool) -> List[str]:
    """The `devices` override of --gpus and --cpu."""
    if gpus is not None and cpu:
        raise ConfsegError("--gpus and --cpu exclude each other; give one")
    if cpu:
        return ["devices=[cpu:0]"]
    if gpus is None:
        return []
    numbers = gpus.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ConfsegError(f"--gpus {gpus}: wants numbers separated by commas, for example --gpus 0,1")
    return [f"devices=[{', '.join(f'gpu:{int(number)}' for number in numbers)}]"]


def main() -> None:
    """Entry point: exit code 0, 1 for a failure of ours, 2 for the user's mistakes, 130 after Ctrl-C."""
    try:
        code = cli.main(standalone_mode=False)
    except ConfsegError as error:
        print(f"confseg: error: {error}", file=sys.stderr)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("\nconfseg: interrupted; what was finished is saved, the same command continues", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
