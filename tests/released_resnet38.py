"""ResNet-38's released checkpoint, from the facts known of it: its arrays, with values drawn at random; its graph."""

import ast
from pathlib import Path

import numpy as np

from gluon_confseg.backend import mx

TABLE = Path(__file__).parent / "data" / "resnet38_a1_parameters.tsv"
ROWS = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
SHAPES = {f"{kind}:{name}": ast.literal_eval(shape) for name, shape, kind in ROWS}
HEAD = ("arg:conv6a_weight", "arg:conv6a_bias", "arg:linear19_weight", "arg:linear19_bias")


def drawn():
    """By name, what `mx.nd.save` writes as such a checkpoint."""
    rng = np.random.default_rng(0)
    return {name: mx.nd.array(_draw(name, shape, rng)) for name, shape in SHAPES.items()}


def _draw(name, shape, rng):
    """Random values under which activations neither die out nor explode."""
    if name.endswith(("gamma", "var")):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("weight"):
        return rng.standard_normal(shape, "float32") * np.float32(np.prod(shape[1:]) ** -0.5)
    return 0.1 * rng.standard_normal(shape)


def reference():
    """The released network written out as symbols, from the facts alone: stages 1 to 4, and the logits."""
    sym = mx.sym

    def conv(x, name, width, kernel, stride=1, dilate=1, bias=False):
        pad = ((kernel - 1) * dilate + 1) // 2
        pairs = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "dilate": (dilate,) * 2, "pad": (pad,) * 2}
        return sym.Convolution(x, num_filter=width, no_bias=not bias, name=name, **pairs)

    def bn_relu(x, name):
        x = sym.BatchNorm(x, eps=1.001e-5, fix_gamma=False, use_global_stats=True, name=name)
        return sym.Activation(x, act_type="relu")

    def basic(x, name, width, out, stride=1, dilate=(1, 1), project=False):
        first = bn_relu(x, f"bn{name}_branch2a")
        shortcut = conv(first, f"res{name}_branch1", out, 1, stride) if project else x
        y = conv(first, f"res{name}_branch2a", width, 3, stride, dilate[0])
        y = conv(bn_relu(y, f"bn{name}_branch2b1"), f"res{name}_branch2b1", out, 3, 1, dilate[1])
        return shortcut + y

    def bottleneck(x, name, width, middle, out, p):
        first = bn_relu(x, f"bn{name}_branch2a")
        y = conv(first, f"res{name}_branch2a", width, 1)
        y = conv(bn_relu(y, f"bn{name}_branch2b1"), f"res{name}_branch2b1", middle, 3, 1, 4)
        y = sym.Dropout(bn_relu(y, f"bn{name}_branch2b2"), p=p)
        return conv(first, f"res{name}_branch1", out, 1) + conv(y, f"res{name}_branch2b2", out, 1)

    x = conv(sym.var("data"), "conv1a", 64, 3)
    x = basic(x, "2a", 128, 128, stride=2, project=True)
    for name in ("2b1", "2b2"):
        x = basic(x, name, 128, 128)
    x = basic(x, "3a", 256, 256, stride=2, project=True)
    for name in ("3b1", "3b2"):
        x = basic(x, name, 256, 256)
    level3 = x
    x = basic(x, "4a", 512, 512, stride=2, project=True)
    for name in ("4b1", "4b2", "4b3", "4b4", "4b5"):
        x = basic(x, name, 512, 512)
    level4 = x
    x = basic(x, "5a", 512, 1024, dilate=(1, 2), project=True)
    for name in ("5b1", "5b2"):
        x = basic(x, name, 512, 1024, dilate=(2, 2))
    level5 = x
    x = bottleneck(x, "6a", 512, 1024, 2048, 0.3)
    x = bn_relu(bottleneck(x, "7a", 1024, 2048, 4096, 0.5), "bn7")
    hidden = sym.Activation(conv(x, "conv6a", 512, 3, 1, 12, bias=True), act_type="relu")
    return sym.Group([level3, level4, level5, x, conv(hidden, "linear19", 19, 3, 1, 12, bias=True)])
