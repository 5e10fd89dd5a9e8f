"""The command line: `confseg <verb>`. Thin: each verb imports what it needs, so that --help is quick."""

import shlex
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click

from . import __version__
from .errors import ConfsegError, one_line
from .interrupts import INTERRUPTED, second_ends
from .options import parse_scales, parse_seeds, parse_size

CONFIGS = Path(__file__).resolve().parent.parent / "experiments" / "configs"
RESULTS = CONFIGS.parent / "results"
GPUS_HELP = "GPUs to use. Default: all that MXNet can use, else the CPU."
SCALES_HELP = "Average the probabilities over these scales, as in 0.75,1,1.25."
ENCODINGS = ("raw-ids", "train-ids", "colors")
ENCODING_HELP = "What the PNGs hold. Default: found out, where only one is possible."
WINDOW_HELP = "Slide a window of this size, overlapping by a third, over each image. Default: as in the run's config."
RESTART_HELP = "Do again what was finished or begun with other settings, data or versions, and what follows from it."
ALLOW_HELP = "Keep and continue what was finished or begun so; the results then name the differences."
FLIP_HELP = "Add the left-right flipped image. Default: as in the run's config."


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option(
    "--plugin",
    "plugins",
    metavar="FILE.py",
    multiple=True,
    help="Run this Python file first; it registers a network of your own (see gluon_confseg/nn/encoders.py).",
)
def cli(plugins: Tuple[str, ...]) -> None:
    """Find out which classes a segmentation network confuses, and remove the confusion (Geng et al. 2018)."""
    from .launching import end_with_the_job

    end_with_the_job()  # before MXNet, whose import does not return in a job's servers and scheduler
    for path in plugins:
        from .nn.plugins import run_plugin

        run_plugin(path)


@cli.command()
@click.argument("name")
@click.option(
    "--data-root",
    metavar="DIR",
    help="The data set. Default: the variable CITYSCAPES_DATASET, VOC_ROOT or CAMVID_ROOT, else built-in images.",
)
@click.option("--output", metavar="DIR", help="Folder of the results. Default: runs/NAME-seedN.")
@click.option("--gpus", metavar="0,1", help=GPUS_HELP)
@click.option("--cpu", is_flag=True, help="Use the CPU.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the run. Default: the config's.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting of the config, as in --set baseline.epochs=10. May be repeated.",
)
@click.option("--restart", is_flag=True, help=RESTART_HELP)
@click.option("--allow-different", is_flag=True, help=ALLOW_HELP)
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


@cli.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--num-workers", "workers", required=True, type=click.IntRange(min=1), help="Number of workers.")
@click.option("-s", "--num-servers", "servers", type=click.IntRange(min=1), help="Default: as many as workers.")
@click.option("--launcher", default="local", metavar="NAME", help="local, ssh or mpi. Default: local.")
@click.option("-H", "--hostfile", metavar="FILE", help="For ssh and mpi: a machine a line.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def launch(
    workers: int, servers: Optional[int], launcher: str, hostfile: Optional[str], command: Tuple[str, ...]
) -> None:
    """Start a command as several workers, with MXNet's launcher, and end all of them when one fails.

    COMMAND is, for example, confseg run NAME --kvstore dist_sync. See docs/distributed.md.
    """
    from . import launching

    launching.launch(command, workers=workers, servers=servers or workers, launcher=launcher, hostfile=hostfile)


@cli.command()
@click.argument("name")
@click.option("--study", "file", metavar="FILE", help="Cells, losses and seeds. Default: experiments/study.yaml.")
@click.option("--seeds", "numbers", metavar="0-4,7", help="Default: those of the study's file.")
@click.option("--data-root", metavar="DIR", help="The data set. Default: as for confseg run.")
@click.option("--output", metavar="DIR", help="Folder of the runs and tables. Default: runs/NAME-study.")
@click.option("--gpus", metavar="0,1", help=GPUS_HELP)
@click.option("--cpu", is_flag=True, help="Use the CPU.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of the config.")
@click.option("--restart", is_flag=True, help=RESTART_HELP)
@click.option("--allow-different", is_flag=True, help=ALLOW_HELP)
def study(
    name: str,
    file: Optional[str],
    numbers: Optional[str],
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
    seeds = parse_seeds(numbers) if numbers else None
    from . import study as studies

    plan = studies.read(Path(file) if file else CONFIGS.parent / "study.yaml", seeds)
    folder = Path(output) if output else Path("runs") / f"{path.stem}-study"
    options = {"data_root": data_root, "restart": restart, "allow_different": allow_different}
    studies.run(path, plan, folder, overrides=settings, **options)


@cli.command()
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


@cli.command()
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


@cli.command()
@click.argument("run", metavar="RUN")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--cell", metavar="KEY", help="Cell of the result table to predict with. Default: the paper's last one.")
@click.option("--output", metavar="DIR", help="Folder to write to. Default: RUN/predictions/CELL.")
@click.option("--scales", metavar="LIST", default="1", help=SCALES_HELP)
@click.option("--flip", is_flag=True, help=FLIP_HELP)
@click.option("--window", metavar="HxW", help=WINDOW_HELP)
@click.option("--frames", is_flag=True, help="Of a video, write every frame's label map as well.")
@click.option("--gpus", metavar="0,1", help=GPUS_HELP)
@click.option("--cpu", is_flag=True, help="Use the CPU.")
def predict(
    run: str,
    inputs: Tuple[str, ...],
    cell: Optional[str],
    output: Optional[str],
    scales: str,
    flip: bool,
    window: Optional[str],
    frames: bool,
    gpus: Optional[str],
    cpu: bool,
) -> int:
    """Label images and videos with a finished run's network: label maps, the data set's own ids, overlays.

    RUN is a run's folder; INPUT an image (PNG, JPEG), a folder of images, or a video. Run again, it continues.
    """
    names, manner = device_names(gpus, cpu), manner_options(scales, flip, window)
    from . import prediction
    from .backend import devices

    settings = {"cell": cell, "output": output, "frames": frames, **manner}
    failed = prediction.predict(run, inputs, devices=devices(names), **settings)
    return 1 if failed else 0


@cli.command()
@click.argument("run", metavar="RUN")
@click.option("--data-root", metavar="DIR", help="The data set. Default: as for confseg run.")
@click.option("--split", help="A labelled split. Default: the run's validation split.")
@click.option("--cell", "cells", metavar="KEY", multiple=True, help="Cell to evaluate; may be repeated. Default: all.")
@click.option("--output", metavar="FILE", help="Write the counts to this JSON file. Default: only print.")
@click.option("--scales", metavar="LIST", default="1", help=SCALES_HELP)
@click.option("--flip", is_flag=True, help=FLIP_HELP)
@click.option("--window", metavar="HxW", help=WINDOW_HELP)
@click.option("--gpus", metavar="0,1", help=GPUS_HELP)
@click.option("--cpu", is_flag=True, help="Use the CPU.")
def evaluate(
    run: str,
    data_root: Optional[str],
    split: Optional[str],
    cells: Tuple[str, ...],
    output: Optional[str],
    scales: str,
    flip: bool,
    window: Optional[str],
    gpus: Optional[str],
    cpu: bool,
) -> None:
    """Print mean and per-class IoU of a finished run's cells on a labelled split. Run again, it continues."""
    names, manner = device_names(gpus, cpu), manner_options(scales, flip, window)
    from . import evaluating
    from .backend import devices

    settings = {"data_root": data_root, "split": split, "cells": cells, "output": output, **manner}
    evaluating.evaluate_run(run, devices=devices(names), **settings)


@cli.command()
@click.argument("predictions", metavar="PREDICTIONS")
@click.option("--data-root", metavar="DIR", help="Cityscapes. Default: the variable CITYSCAPES_DATASET.")
@click.option("--split", default="val", help="A labelled split. Default: val.")
@click.option("--output", metavar="FILE", help="Write figures and counts to this JSON file. Default: only print.")
def official(predictions: str, data_root: Optional[str], split: str, output: Optional[str]) -> int:
    """Evaluate Cityscapes label maps of any network: IoU and iIoU of classes and categories.

    PREDICTIONS is a folder of PNGs with official ids, such as confseg predict's raw/. The official evaluator
    (cityscapesScripts) runs beside our own counting, where it is installed; exit code 1 where the two differ.
    """
    from .official import evaluate_official

    return 0 if evaluate_official(predictions, data_root=data_root, split=split, output=output) else 1


@cli.command()
@click.argument("run", metavar="RUN")
@click.option("--cell", metavar="KEY", help="Cell of the result table to export. Default: the paper's last one.")
@click.option("--format", "kind", type=click.Choice(["symbol", "onnx"]), default="symbol", help="Default: symbol.")
@click.option("--output", metavar="DIR", help="Folder to make. Default: RUN/export/CELL-FORMAT[-int8].")
@click.option("--size", metavar="HxW", help="The only image size it is for. Default: --dynamic.")
@click.option("--dynamic", is_flag=True, help="Any image size.")
@click.option("--labels", is_flag=True, help="Give the label map instead of the classes' scores.")
@click.option("--normalize", is_flag=True, help="Take RGB of 0..255, with the normalisation inside.")
@click.option("--int8", is_flag=True, help="Quantise the convolutions; what that costs is measured and written down.")
@click.option("--images", metavar="DIR", help="With --int8, images to calibrate on. Default: the training split's.")
@click.option("--data-root", metavar="DIR", help="With --int8, the data set. Default: as for confseg run.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="With --int8, measure on N validation images.")
def export(
    run: str,
    cell: Optional[str],
    kind: str,
    output: Optional[str],
    size: Optional[str],
    dynamic: bool,
    labels: bool,
    normalize: bool,
    int8: bool,
    images: Optional[str],
    data_root: Optional[str],
    limit: Optional[int],
) -> None:
    """Write a finished run's network as one graph that runs without this package, MXNet's or ONNX.

    RUN is a run's folder. The graph is run in a fresh process and compared with the network before it is kept.
    """
    if size and dynamic:
        raise ConfsegError("--size and --dynamic exclude each other; give one")
    if not int8 and (images or data_root or limit):
        raise ConfsegError("--images, --data-root and --limit are for --int8; give it too")
    from . import export as exporting

    quantised = exporting.Int8(images, data_root, limit) if int8 else None
    options = exporting.Options(kind, parse_size(size) if size else None, labels, normalize, quantised)
    made = exporting.export(run, cell, output, options)
    print(f"the graph, an example that runs it and {exporting.CONTRACT_FILE}, which describes it, are in {made}")


@cli.command()
def doctor() -> int:
    """Say what this machine and installation can run, with the line that mends what they cannot.

    The exit code is 1 where something prevents running.
    """
    from . import doctor as examination

    return examination.examine()


@cli.command()
@click.argument("predictions", metavar="PREDICTIONS")
@click.argument("truth", metavar="TRUTH")
@click.option("--classes", required=True, metavar="NAME", help="cityscapes, voc, camvid, or a file with the classes.")
@click.option("--output", required=True, metavar="DIR", help="Folder to write to.")
@click.option("--before", metavar="DIR", help="Other predictions of the same images, to compare with.")
@click.option("--prediction-encoding", type=click.Choice(ENCODINGS), help=ENCODING_HELP)
@click.option("--truth-encoding", type=click.Choice(ENCODINGS), help=ENCODING_HELP)
@click.option("--skip-missing", is_flag=True, help="Leave out truths that have no prediction.")
@click.option("--pairs", type=click.IntRange(min=1), default=10, help="Confused pairs to print. Default: 10.")
def confusion(
    predictions: str,
    truth: str,
    classes: str,
    output: str,
    before: Optional[str],
    prediction_encoding: Optional[str],
    truth_encoding: Optional[str],
    skip_missing: bool,
    pairs: int,
) -> None:
    """Count what any network confuses: two folders of label maps (PNG), joined by name. Needs no MXNet.

    Label maps hold ids (gray or palette) or the classes' colours. A file of classes is a YAML, with names and if need
    be colours and ids, or a text with a name per line. Endings such as _leftImg8bit and _gtFine_labelIds do not count
    as part of a name.
    """
    from . import comparing

    encodings = (prediction_encoding, truth_encoding)
    settings = {"classes": classes, "output": output, "before": before, "encodings": encodings}
    comparing.confusion(predictions, truth, skip_missing=skip_missing, pairs=pairs, **settings)


@cli.command()
@click.argument("matrix", metavar="MATRIX")
@click.option(
    "--classes", metavar="NAME", help="Names of the classes, as for confseg confusion. Default: MATRIX's own."
)
@click.option("--output", metavar="DIR", help="Folder to write to. Default: groups, beside MATRIX.")
@click.option(
    "--source", default="auto", metavar="auto|paper|LISTS", help="Groups by name: [[car, bus], [wall, fence]]."
)
@click.option("--threshold", type=float, default=0.02, help="Confusion that keeps a class in its group. Default: 0.02.")
@click.option("--max-group-size", type=int, default=6, help="Default: 6.")
@click.option("--max-groups", type=int, default=3, help="Default: 3; 0 for no limit.")
def groups(
    matrix: str,
    classes: Optional[str],
    output: Optional[str],
    source: str,
    threshold: float,
    max_group_size: int,
    max_groups: int,
) -> None:
    """Find the groups of classes that are confused, and the weights of the losses against it. Needs no MXNet.

    MATRIX is a confusion.npz, or a CSV of pixel counts: a header of class names, a row per true class.
    """
    from . import grouping

    output = output or str(Path(matrix).parent / "groups")
    limits = {"threshold": threshold, "max_group_size": max_group_size, "max_groups": max_groups or None}
    grouping.find_groups(matrix, classes=classes, output=output, source=source, **limits)


@cli.command()
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


@cli.command("check-data")
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


def config_path(name: str) -> Path:
    """The YAML that a name or path stands for; ConfsegError lists the names there are."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("[!_]*.yaml"))) or f"none in {CONFIGS}"
        raise ConfsegError(f"there is no config {name!r}; there are: {names}; or give the path of a YAML")
    return path


def device_names(gpus: Optional[str], cpu: bool) -> List[str]:
    """The devices of --gpus and --cpu; ["auto"] without either."""
    if gpus is not None and cpu:
        raise ConfsegError("--gpus and --cpu exclude each other; give one")
    if cpu:
        return ["cpu:0"]
    if gpus is None:
        return ["auto"]
    numbers = gpus.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ConfsegError(f"--gpus {gpus}: wants numbers separated by commas, for example --gpus 0,1")
    return [f"gpu:{int(number)}" for number in numbers]


def manner_options(scales: str, flip: bool, window: Optional[str]) -> Dict[str, Any]:
    """How the network is used, by --scales, --flip and --window."""
    size = None
    if window is not None:
        from .config import MIN_WINDOW  # pydantic takes a while

        size = parse_size(window, "--window", MIN_WINDOW)
    return {"scales": parse_scales(scales), "flip": flip, "window": size}


def device_setting(gpus: Optional[str], cpu: bool) -> List[str]:
    """The `devices` override of --gpus and --cpu."""
    names = device_names(gpus, cpu)
    return [] if names == ["auto"] else [f"devices=[{', '.join(names)}]"]


def main() -> None:
    """Entry point: exit code 0, 1 for a failure of ours, 2 for the user's mistakes, 130 after Ctrl-C."""
    again = f"what was finished is saved; go on with\n  {_command()}"
    with second_ends("stopping; Ctrl-C again ends it at once", f"ended at once; {again}"):
        try:
            code = cli.main(standalone_mode=False)
        except ConfsegError as error:
            print(f"confseg: error: {one_line(str(error))}", file=sys.stderr)
            code = 2
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            print(f"\nconfseg: interrupted; {again}", file=sys.stderr)
            code = INTERRUPTED
    sys.exit(code)


def _command() -> str:
    """This command, for a shell."""
    name = sys.argv[0] if Path(sys.argv[0]).is_file() else "confseg"
    return " ".join(map(shlex.quote, [name, *sys.argv[1:]]))
