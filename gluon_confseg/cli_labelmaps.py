"""Verbs for label maps of any network: evaluate them, count their confusion, find groups in it."""

from pathlib import Path
from typing import Optional

import click

ENCODINGS = ("raw-ids", "train-ids", "colors")
ENCODING_HELP = "What the PNGs hold. Default: found out, where only one is possible."


@click.command()
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


@click.command()
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


@click.command()
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
