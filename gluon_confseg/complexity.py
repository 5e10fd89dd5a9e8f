"""Parameters, multiply-adds and memory of a network, from its symbol graph alone: nothing is initialised or run."""

import json
from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np

from .backend import mx

Shape = Tuple[int, ...]
Entry = Tuple[int, int]  # a node of the graph, and which of its outputs

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """What a graph costs, with float32 everywhere.

    parameters : trainable values
    parameter_bytes : all arrays that must be held: the above, BatchNorm's running statistics, constants
    multiply_adds : of convolutions, transposed convolutions and fully connected layers; all else is left out, as usual
    activation_bytes : every operator's visible outputs once: what training keeps if it frees and shares nothing
    live_bytes : the most that is needed at once when operators run in the graph's order, each output is freed after its
        last use and none is written over its input; the graph's inputs and outputs stay. Work space is not counted.
    """

    parameters: int
    parameter_bytes: int
    multiply_adds: int
    activation_bytes: int
    live_bytes: int


def output_shapes(symbol: mx.sym.Symbol, inputs: Mapping[str, Shape]) -> List[Shape]:
    """Shapes of a graph's outputs for those of its inputs."""
    used = set(symbol.list_inputs())
    return symbol.infer_shape(**{name: shape for name, shape in inputs.items() if name in used})[1]


def count(symbol: mx.sym.Symbol, inputs: Mapping[str, Shape], constants: Sequence[str] = ()) -> Cost:
    """The cost of a graph for the shapes of its inputs; `constants` are names of arrays that are not trained."""
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    shapes = _shapes(symbol, nodes, {name: shape for name, shape in inputs.items() if name in symbol.list_inputs()})
    held = {node["name"]: _size(shapes[i, 0]) for i, node in enumerate(nodes) if node["op"] == "null"}
    arrays = {name: size for name, size in held.items() if name not in inputs}
    fixed = {*symbol.list_auxiliary_states(), *constants}
    operators = [i for i, node in enumerate(nodes) if node["op"] != "null"]
    made = {entry: _FLOAT_BYTES * _size(shape) for entry, shape in shapes.items() if entry[0] in set(operators)}
    images = sum(_FLOAT_BYTES * size for name, size in held.items() if name in inputs)
    return Cost(
        parameters=sum(size for name, size in arrays.items() if name not in fixed),
        parameter_bytes=_FLOAT_BYTES * sum(arrays.values()),
        multiply_adds=sum(_multiply_adds(nodes[i], i, shapes) for i in operators),
        activation_bytes=sum(made.values()),
        live_bytes=images + _most_alive(nodes, made, [tuple(head[:2]) for head in graph["heads"]]),
    )


def _shapes(symbol: mx.sym.Symbol, nodes: List[dict], inputs: Mapping[str, Shape]) -> Dict[Entry, Shape]:
    """The shape of every output of every node."""
    internals = symbol.get_internals()
    names, sizes = internals.list_outputs(), internals.infer_shape(**inputs)[1]
    found: Dict[Entry, Shape] = {}
    for i, node in enumerate(nodes):
        output = 0  # a node's outputs come one after another: NAME_output, or NAME_output0, NAME_output1, ...
        while not output or names[len(found) : len(found) + 1] == [f"{node['name']}_output{output}"]:
            found[i, output] = sizes[len(found)]
            output += 1
    return found


def _multiply_adds(node: dict, index: int, shapes: Mapping[Entry, Shape]) -> int:
    if node["op"] not in ("Convolution", "Deconvolution", "FullyConnected"):
        return 0
    data, weight = (shapes[tuple(entry[:2])] for entry in node["inputs"][:2])
    # weight: (outputs, inputs / groups, *kernel), or, transposed, (inputs, outputs / groups, *kernel)
    values = data if node["op"] == "Deconvolution" else shapes[index, 0]
    return _size(values) * _size(weight[1:])


def _most_alive(nodes: List[dict], made: Mapping[Entry, int], kept: Sequence[Entry]) -> int:
    """The largest sum of bytes at any operator of what has been made and will still be read, or is `kept`."""
    last = {entry: len(nodes) if entry in kept else entry[0] for entry in made}
    for i, node in enumerate(nodes):
        for entry in (tuple(source[:2]) for source in node["inputs"]):
            if entry in last:
                last[entry] = max(last[entry], i)
    change = np.zeros(len(nodes) + 2, np.int64)
    for entry, size in made.items():
        change[entry[0]] += size
        change[last[entry] + 1] -= size
    return int(np.cumsum(change).max())


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
