"""What evaluating a data set takes over the forward passes of its networks, and how memory grows with its images.

    python tools/benchmarks/evaluation.py camvid 360x480 --images 64        (OMP_NUM_THREADS sets the threads)
    python tools/benchmarks/evaluation.py cityscapes 1024x2048 --images 1

Cells of a config (by default all) at random weights, on built-in images in files of that size. A forward pass is the
encoder and every head once, from the normalised image to the logits; evaluation reads, fuses, upsamples, takes the
largest, and counts, for each cell. "one by one": the cells' networks, each with the encoder, one after another. Wanted:
at most 10 % over the forward passes, and a peak of memory that does not depend on the images.
"""

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, Sequence, Tuple

import click
import numpy as np
from alternating import measure, ratio, table
from memory import peak, peak_of

from gluon_confseg import config
from gluon_confseg.backend import mx
from gluon_confseg.building import label_table, make_subnet, make_view, needed_heads
from gluon_confseg.data import SegmentationDataset, open_dataset, synthetic
from gluon_confseg.data.transforms import at_scale, normalize
from gluon_confseg.evaluation import evaluate
from gluon_confseg.groups import ClassGroup, output_spaces
from gluon_confseg.inference import Predictor
from gluon_confseg.labels import LabelSet
from gluon_confseg.nn import MergedSubnets, get_encoder
from gluon_confseg.options import parse_size
from gluon_confseg.places import CONFIGS

FORWARD, ONE_BY_ONE, EVALUATION = "forward passes", "forward passes, cells one by one", "evaluation"
GROUPS = (ClassGroup((2, 3, 4), "made up"), ClassGroup((5, 6, 7), "made up"), ClassGroup((8, 9, 10), "made up"))
WORKERS = 2


def network(settings: config.Config, labels: LabelSet) -> Tuple[mx.gluon.Block, dict, dict]:
    """Encoder, heads by name, views by cell."""
    number = labels.num_classes
    encoder = get_encoder(settings.encoder.name, frozen_batchnorm=True)
    encoder.hybridize()
    features = encoder(mx.nd.zeros((1, 3, 32, 32)))
    spaces = output_spaces(list(GROUPS), number, 0)
    heads = {}
    for name in needed_heads(settings.cells, len(GROUPS)):
        head = make_subnet(settings, name, number, spaces, encoder)
        head.initialize(mx.init.MSRAPrelu(slope=0))
        head(*head.inputs(features))
        head.hybridize()
        heads[str(name)] = head
    views = {cell.key: make_view(cell, spaces, number, np.full(number, 1 / number)) for cell in settings.cells}
    for view in views.values():
        view.fusion.initialize()
    return encoder, heads, views


def cases(settings: config.Config, dataset: SegmentationDataset) -> Dict[str, Callable[[], None]]:
    encoder, heads, views = network(settings, dataset.labels)
    mean, std, scale = settings.augment.mean, settings.augment.std, settings.data.scale
    predictor = Predictor(encoder, heads, views, scale=scale, mean=mean, std=std, device=mx.cpu())
    tables = dict.fromkeys(views, label_table(np.arange(dataset.labels.num_classes)))
    x = mx.nd.array(normalize(at_scale(dataset.image(0), scale), mean, std)[None])
    everything = merged(list(heads.values()))
    alone = [merged([heads[name] for name in view.subnets]) for view in views.values()]

    def forward(passes: Sequence[MergedSubnets]) -> None:
        for _ in range(len(dataset)):
            for subnets in passes:
                for logits in subnets(*encoder(x)):
                    logits.wait_to_read()

    return {
        FORWARD: lambda: forward([everything]),
        ONE_BY_ONE: lambda: forward(alone),
        EVALUATION: lambda: evaluate(dataset, [predictor], tables, workers=WORKERS, title=""),
    }


def merged(heads: Sequence[mx.gluon.HybridBlock]) -> MergedSubnets:
    made = MergedSubnets(heads)
    made.copy_values(heads)
    made.hybridize()
    return made


def draw(root: Path, name: str, size: str, images: int) -> Path:
    """The folder of a built-in data set, whose drawing takes memory that is not the evaluation's."""
    folder = root / str(images)
    synthetic.ensure(name, folder, train=1, val=images, size=parse_size(size), seed=0)
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the data set's and the evaluation's own messages."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@click.command()
@click.argument("name", default="camvid")
@click.argument("size", default="360x480")
@click.option("--images", default=64, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--set", "overrides", multiple=True, help="A setting of the config: key=value.")
@click.option("--cell", "keys", multiple=True, help="A cell of the config. Default: all.")
@click.option("--memory-of", metavar="DIR", hidden=True)
def main(
    name: str, size: str, images: int, repeats: int, overrides: Tuple[str, ...], keys: Tuple[str, ...], memory_of: str
) -> None:
    settings = config.load(CONFIGS / f"{name}.yaml", overrides)
    cells = tuple(cell for cell in settings.cells if not keys or cell.key in keys)
    settings = settings.model_copy(update={"cells": cells})
    with tempfile.TemporaryDirectory() as scratch, quiet():
        if memory_of:
            cases(settings, open_dataset(name, memory_of, "val"))[EVALUATION]()
            print(peak())
            return
        drawn = [draw(Path(scratch), name, size, number) for number in (images, 4 * images)]
        made = cases(settings, open_dataset(name, drawn[0], "val"))
        print(f"{name}, {settings.encoder.name}, {size}, {images} images, {len(settings.cells)} cells\n")
        seconds = measure(made, repeats)
        print(table(seconds, FORWARD))
        print(f"\n{100 * ratio(seconds, EVALUATION, FORWARD) - 100:.1f} % over the forward passes (wanted: at most 10)")
        arguments = [name, size, *(part for text in overrides for part in ("--set", text))]
        arguments += [*(part for key in keys for part in ("--cell", key)), "--memory-of"]
        few, many = (peak_of(__file__, [*arguments, str(folder)]) / 2**20 for folder in drawn)
    print(f"peak memory: {few:.0f} MB with {images} images, {many:.0f} MB with {4 * images}")


if __name__ == "__main__":
    main()
