"""Training the heads of the Cityscapes config in one pass over a frozen encoder, against one training after another.

    python tools/benchmarks/heads.py [--encoder small] [--crop 128x192] [--batch 8] [--updates 1] [--repeats 3]

The heads: subnets of the paper's three groups with its loss, and one control (all classes, cross-entropy). Random
weights, images and labels; as many updates of each head in every case:

    one pass                  the encoder once, every head on its features (training.step, as `confseg run` does)
    one by one, frozen        each head alone; the encoder forward for each, without its gradients
    one by one, in the graph  the same with the encoder in autograd's graph: gradients through all of it
    features kept             every head on features that were computed before

OMP_NUM_THREADS sets the threads. The control has the head of the others (--hidden, --channels, --dilation).
"""

import os
from typing import Callable, Dict, List, Sequence

import click
import numpy as np
from alternating import measure, ratio, table

from gluon_confseg import training
from gluon_confseg.backend import mx
from gluon_confseg.building import label_table
from gluon_confseg.config_schedules import Schedule
from gluon_confseg.confusion import group_mapping
from gluon_confseg.data.loader import Batch
from gluon_confseg.groups import named
from gluon_confseg.heads import Head, HeadLoss, Trunk, make_trainer
from gluon_confseg.labels import CITYSCAPES
from gluon_confseg.nn import ConfusionCrossEntropy, PixelCrossEntropy, Subnet, get_encoder
from gluon_confseg.options import parse_size

CPU = mx.cpu()
TRAINING_IMAGES = 2975  # of Cityscapes
ONE, FROZEN, GRAPH, KEPT = "one pass", "one by one, frozen", "one by one, in the graph", "features kept"


def make_heads(features: Sequence[mx.nd.NDArray], stride: int, schedule: Schedule, **shape: int) -> List[Head]:
    """Three groups with the paper's loss, and the control."""
    everything = np.arange(CITYSCAPES.num_classes)
    groups = named(CITYSCAPES, CITYSCAPES.named_groups["paper"])
    outputs = [*(group_mapping(group.classes, len(everything)) for group in groups), everything]
    heads = []
    for number, output in enumerate(outputs):
        count = int(output.max()) + 1
        weights = 0.5 * np.eye(count) + 0.5 / count
        loss = PixelCrossEntropy(count) if output is everything else ConfusionCrossEntropy(weights)
        subnet = Subnet(count, **shape)
        subnet.initialize(mx.init.MSRAPrelu(slope=0))
        subnet(*subnet.inputs(features))
        block = HeadLoss(subnet, loss, stride // schedule.loss_stride)
        loss.initialize()
        block.hybridize(static_alloc=True)
        trainer = make_trainer(subnet, schedule)
        trainer.set_learning_rate(1e-4)
        heads.append(Head(str(number), block, trainer, 1e-4, label_table(output), schedule.loss_stride))
    return heads


class KeptFeatures(mx.gluon.Block):
    """In the encoder's place: the batch holds the features instead of the images."""

    def forward(self, features):
        return [features]


@click.command()
@click.option("--encoder", "name", default="small", show_default=True)
@click.option("--crop", default="128x192", show_default=True)
@click.option("--batch", "size", default=8, show_default=True)
@click.option("--hidden", default=1, show_default=True)
@click.option("--channels", default=128, show_default=True)
@click.option("--dilation", default=4, show_default=True)
@click.option("--loss-stride", default=2, show_default=True)
@click.option("--updates", default=1, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(
    name: str,
    crop: str,
    size: int,
    hidden: int,
    channels: int,
    dilation: int,
    loss_stride: int,
    updates: int,
    repeats: int,
) -> None:
    height, width = parse_size(crop)
    schedule = Schedule(epochs=1, batch_size=size, learning_rate=1e-4, loss_stride=loss_stride)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, 3, height, width)).astype("float32")
    labels = rng.integers(0, CITYSCAPES.num_classes, (size, height, width)).astype("uint8")
    batch = Batch(images, labels, ["random"] * size)

    graph = get_encoder(name, frozen_batchnorm=True)
    graph.hybridize(static_alloc=True)
    in_graph = Trunk(graph, make_trainer(graph, schedule))  # its learning rate stays 0
    encoder = get_encoder(name, frozen_batchnorm=True)
    encoder.collect_params().setattr("grad_req", "null")
    encoder.hybridize()
    frozen, kept = Trunk(encoder), Trunk(KeptFeatures())
    features = encoder(mx.nd.array(images))
    kept_batch = Batch(features[-1].asnumpy(), labels, batch.ids)

    def case(trunk: Trunk, given: Batch, together: bool) -> Callable[[], None]:
        # heads of its own: MXNet plans a head's memory anew where the features' gradient is wanted, and where not
        shape = {"hidden": hidden, "channels": channels, "dilation": dilation}
        heads = make_heads(features, encoder.output_stride, schedule, **shape)

        def run() -> None:
            for part in [heads] if together else [[head] for head in heads]:
                for _ in range(updates):
                    training.step(given, trunk, part, [CPU], schedule)
            mx.nd.waitall()

        return run

    cases: Dict[str, Callable[[], None]] = {
        ONE: case(frozen, batch, together=True),
        FROZEN: case(frozen, batch, together=False),
        GRAPH: case(in_graph, batch, together=False),
        KEPT: case(kept, kept_batch, together=True),
    }
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"{name}, batch {size} of {crop}, 4 heads, {updates} updates of each, OMP_NUM_THREADS {threads}\n")
    seconds = measure(cases, repeats)
    print(table(seconds, ONE))
    graph_ratio, frozen_ratio = ratio(seconds, GRAPH, ONE), ratio(seconds, FROZEN, ONE)
    print(f"\none pass is {graph_ratio:.2f} times as fast as one by one in the graph (wanted: 4), ", end="")
    print(f"{frozen_ratio:.2f} times as fast as one by one with a frozen encoder")
    each = kept_batch.images.nbytes / size
    print(f"features kept: {ratio(seconds, ONE, KEPT):.2f} times as fast as one pass, ", end="")
    print(f"for {each / 2**20:.2f} MB per image, ", end="")
    print(f"{TRAINING_IMAGES * each / 2**30:.1f} GB for the {TRAINING_IMAGES} of Cityscapes")


if __name__ == "__main__":
    main()
