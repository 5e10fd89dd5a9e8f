"""Verbs that use the networks of a finished run."""

from typing import Optional, Tuple

import click

from .cli_options import (
    cpu_option,
    device_names,
    flip_option,
    gpus_option,
    manner_options,
    scales_option,
    window_option,
)
from .errors import ConfsegError
from .options import parse_size


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--cell", metavar="KEY", help="Cell of the result table to predict with. Default: the paper's last one.")
@click.option("--output", metavar="DIR", help="Folder to write to. Default: RUN/predictions/CELL.")
@scales_option
@flip_option
@window_option
@click.option("--frames", is_flag=True, help="Of a video, write every frame's label map as well.")
@gpus_option
@cpu_option
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


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--data-root", metavar="DIR", help="The data set. Default: as for confseg run.")
@click.option("--split", help="A labelled split. Default: the run's validation split.")
@click.option("--cell", "cells", metavar="KEY", multiple=True, help="Cell to evaluate; may be repeated. Default: all.")
@click.option("--output", metavar="FILE", help="Write the counts to this JSON file. Default: only print.")
@scales_option
@flip_option
@window_option
@gpus_option
@cpu_option
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


@click.command()
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
