"""Four fused subnets in INT8 against the same in float32, and against the float32 baseline: the encoder with one head.

    OMP_NUM_THREADS=1 python tools/benchmarks/int8.py small 360x480
    OMP_NUM_THREADS=1 python tools/benchmarks/int8.py resnet50_v1b 256x512 --repeats 9

Exported networks (MXNet's symbol and ONNX) by turns, with random weights and images. The heads are those of
Cityscapes: subnet 0, and the paper's three groups, merged; 512 channels at dilation 12 (128 at 4 for the small
encoder). Wanted: fused INT8 is faster than one head in float32. What INT8 costs in mIoU is measured, on a trained run's
validation images, by confseg export RUN --int8 (wanted: at most 0.5 points).
"""

import tempfile
from pathlib import Path
from typing import Callable, Dict

import click
import numpy as np
from alternating import measure, ratio, table

from gluon_confseg import groups
from gluon_confseg.backend import mx, settle
from gluon_confseg.config_data import Augment
from gluon_confseg.export import Options, graph, int8, int8_onnx, int8_symbol, onnx_file
from gluon_confseg.labels import CITYSCAPES
from gluon_confseg.nn import ConfSegNet, Fusion, MergedSubnets, Subnet, get_encoder
from gluon_confseg.options import parse_size

ONE, FUSED, INT8 = "one head", "fused", "fused INT8"


def network(name: str, fused: bool) -> ConfSegNet:
    """Subnet 0 on an encoder, alone or with the paper's three groups."""
    shape = {"channels": 128, "dilation": 4} if name == "small" else {"channels": 512, "dilation": 12}
    found = groups.named(CITYSCAPES, CITYSCAPES.named_groups["paper"]) if fused else []
    subnets = [Subnet(outputs, **shape) for outputs in (19, *(len(group.classes) + 1 for group in found))]
    encoder = get_encoder(name, frozen_batchnorm=True)
    for subnet in subnets:
        subnet.initialize(mx.init.MSRAPrelu(slope=0))
        subnet(*subnet.inputs(encoder(mx.nd.zeros((1, 3, 32, 32)))))
    merged, fusion = MergedSubnets(subnets), Fusion(found, 19)
    merged.copy_values(subnets)
    made = ConfSegNet(encoder, merged, fusion)
    fusion.initialize()
    made.upsample.initialize()
    settle()
    return made


def graphs(name: str, batch: np.ndarray, scratch: Path) -> Dict[str, Dict[str, Callable[[np.ndarray], np.ndarray]]]:
    """By format and case, what the graph does from array to array."""
    made: Dict[str, Dict[str, Callable]] = {"symbol": {}, "ONNX": {}}
    for case in (ONE, FUSED):
        block = network(name, fused=case == FUSED)
        weighted = graph.trace(graph.Graph(block, Augment(), Options()))
        source = scratch / f"{case}.onnx"
        onnx_file.write(source, weighted, None)
        made["symbol"][case], made["ONNX"][case] = graph.runner(weighted), onnx_file.runner(source)
    keep, target = (block.fusion.prefix, block.upsample.prefix), scratch / "int8.onnx"
    made["symbol"][INT8] = graph.runner(int8_symbol.quantize(weighted, [batch], keep))
    int8_onnx.quantize(source, target, [batch], keep)
    made["ONNX"][INT8] = onnx_file.runner(target)
    return made


@click.command()
@click.argument("encoder", default="small")
@click.argument("size", default="360x480")
@click.option("--repeats", default=9, show_default=True)
def main(encoder: str, size: str, repeats: int) -> None:
    batch = np.random.default_rng(0).normal(size=(1, 3, *parse_size(size))).astype("float32")
    with tempfile.TemporaryDirectory() as scratch:
        for kind, cases in graphs(encoder, batch, Path(scratch)).items():
            seconds = measure({case: lambda run=run: run(batch) for case, run in cases.items()}, repeats)
            print(f"{encoder}, {size}, {kind}, {int8.threads()} threads\n")
            print(table(seconds, ONE))
            print(f"fused INT8 takes {ratio(seconds, INT8, ONE):.2f} of one head in float32 (wanted: less than 1)\n")


if __name__ == "__main__":
    main()
