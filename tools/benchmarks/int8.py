"""Milliseconds of exported networks in float32 and INT8, in turns, with random weights and images.

python tools/benchmarks/int8.py small 360x480    (encoder, height x width; OMP_NUM_THREADS=1 or 2 before it)
python tools/benchmarks/int8.py resnet50_v1b 256x512

The head is that of Cityscapes: subnet 0 and the paper's three groups, merged; 512 channels at dilation 12 (128 at 4 for
the small encoder).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from gluon_confseg import groups
from gluon_confseg.backend import mx, settle
from gluon_confseg.config import Augment
from gluon_confseg.export import Options, graph, int8, int8_onnx, int8_symbol, onnx_file
from gluon_confseg.labels import CITYSCAPES
from gluon_confseg.nn import ConfSegNet, Fusion, MergedSubnets, Subnet, get_encoder
from gluon_confseg.options import parse_size

REPEATS = 9


def network(name: str) -> ConfSegNet:
    shape = {"channels": 128, "dilation": 4} if name == "small" else {"channels": 512, "dilation": 12}
    found = groups.named(CITYSCAPES, CITYSCAPES.named_groups["paper"])
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
    return made


def main() -> None:
    name, size = sys.argv[1], parse_size(sys.argv[2])
    made = network(name)
    keep = (made.fusion.prefix, made.upsample.prefix)
    batch = np.random.default_rng(0).normal(size=(1, 3, *size)).astype("float32")
    weighted = graph.trace(graph.Graph(made, Augment(), Options()))
    settle()
    graphs = {
        "symbol": graph.runner(weighted),
        "symbol int8": graph.runner(int8_symbol.quantize(weighted, [batch], keep)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "float32.onnx", Path(scratch) / "int8.onnx"
        onnx_file.write(source, weighted, None)
        int8_onnx.quantize(source, target, [batch], keep)
        graphs.update({"onnx": onnx_file.runner(source), "onnx int8": onnx_file.runner(target)})
        print(f"{name} {sys.argv[2]}, {int8.threads()} threads, ms: {int8.milliseconds(graphs, batch, REPEATS)}")


if __name__ == "__main__":
    main()
