"""What fusing costs: the paper's fused network against its encoder with one head, whole images, forward only.

    python tools/benchmarks/fused_inference.py [--encoder resnet101_v1b] [--size 1024x2048] [--repeats 5]

Random weights, normalised random image, label map as the result. Prints seconds by turns, the ratio of the
multiply-adds, and each network's peak memory in a process of its own. OMP_NUM_THREADS sets the threads.
"""

import os
from typing import Dict, Tuple

import click
import numpy as np
from alternating import measure, ratio, table
from memory import peak, peak_of

from gluon_confseg.backend import mx
from gluon_confseg.complexity import count
from gluon_confseg.groups import named
from gluon_confseg.labels import CITYSCAPES
from gluon_confseg.nn import ConfSegNet, Fusion, MergedSubnets, Subnet, get_encoder
from gluon_confseg.options import parse_size

ONE, FUSED, SEPARATE = "one head", "fused", "fused, hidden convolutions one by one"


def networks(name: str, names: Tuple[str, ...]) -> Dict[str, ConfSegNet]:
    """The networks of `names` on one encoder: subnet 0 alone, and four fused subnets, merged or not."""
    groups = named(CITYSCAPES, CITYSCAPES.named_groups["paper"])
    encoder = get_encoder(name)
    features = encoder(mx.nd.zeros((1, 3, 64, 64)))
    hidden = 2 if name.startswith("resnet101") else 1
    subnets = [Subnet(CITYSCAPES.num_classes, hidden=hidden), *(Subnet(len(group.classes) + 1) for group in groups)]
    for subnet in subnets:
        subnet.initialize(mx.init.MSRAPrelu(slope=0))
        subnet(*subnet.inputs(features))
    merged = MergedSubnets(subnets)
    merged.copy_values(subnets)
    parts = {ONE: (subnets[:1], []), FUSED: (merged, groups), SEPARATE: (subnets, groups)}
    made = {}
    for key in names:
        heads, fused = parts[key]
        network = ConfSegNet(encoder, heads, Fusion(fused, CITYSCAPES.num_classes))
        network.fusion.initialize()
        network.upsample.initialize()
        network.hybridize(static_alloc=True, static_shape=True)
        made[key] = network
    return made


def label_map(network: ConfSegNet, image: np.ndarray) -> np.ndarray:
    return network(mx.nd.array(image)).argmax(axis=1).astype("uint8").asnumpy()


def multiply_adds(network: ConfSegNet, shape: Tuple[int, ...]) -> int:
    return count(network(mx.sym.var("data")), {"data": shape}).multiply_adds


@click.command()
@click.option("--encoder", default="resnet101_v1b", show_default=True)
@click.option("--size", default="1024x2048", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--memory-of", hidden=True)
def main(encoder: str, size: str, repeats: int, memory_of: str) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, *parse_size(size))).astype("float32")
    if memory_of:
        (network,) = networks(encoder, (memory_of,)).values()
        for _ in range(2):
            label_map(network, image)
        print(peak())
        return
    made = networks(encoder, (ONE, FUSED, SEPARATE))
    additions = {key: multiply_adds(network, image.shape) for key, network in made.items()}
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"{encoder}, {size}, {CITYSCAPES.num_classes} classes, float32, CPU, OMP_NUM_THREADS {threads}\n")
    seconds = measure({key: lambda n=network: label_map(n, image) for key, network in made.items()}, repeats)
    print(table(seconds, ONE))
    work = additions[FUSED] / additions[ONE]
    print(f"\nmultiply-adds: {additions[ONE] / 1e9:.0f} and {additions[FUSED] / 1e9:.0f} G, ratio {work:.3f}")
    print(f"seconds over multiply-adds: {ratio(seconds, FUSED, ONE) / work:.3f} (wanted: below 1, better 0.95)")
    arguments = ("--encoder", encoder, "--size", size, "--memory-of")
    peaks = {key: peak_of(__file__, (*arguments, key)) / 2**30 for key in (ONE, FUSED)}
    print("peak memory:", ", ".join(f"{key} {value:.2f} GB" for key, value in peaks.items()))


if __name__ == "__main__":
    main()
