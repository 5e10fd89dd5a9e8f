"""Arrays in the format of ResNet-38's released checkpoint: its own names, kinds and shapes, values drawn at random."""

import ast
from pathlib import Path

import numpy as np

from gluon_confseg.backend import mx

TABLE = Path(__file__).parent / "data" / "resnet38_a1_parameters.tsv"
ROWS = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
SHAPES = {f"{kind}:{name}": ast.literal_eval(shape) for name, shape, kind in ROWS}


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
