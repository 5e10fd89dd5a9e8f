"""The graph that is exported: a network with what stands before and behind it, as MXNet's symbol with its weights."""

import json
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

import numpy as np

from ..backend import mx
from ..config_data import Augment
from ..nn import ConfSegNet
from .options import Options

DATA = "data"
SYMBOL_FILE, WEIGHTS_FILE = "network-symbol.json", "network.params"


class Graph(mx.gluon.HybridBlock):
    """The network, with normalisation before it and arg max behind it where asked."""

    def __init__(self, network: ConfSegNet, augment: Augment, options: Options):
        super().__init__()
        self._labels = options.labels
        with self.name_scope():
            self.network = network
            if options.normalize:  # with the float32 constants of data.transforms.normalize
                mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (augment.mean, augment.std))
                self.scale = self.params.get_constant("scale", np.float32(1 / (255 * std)))
                self.shift = self.params.get_constant("shift", np.float32(mean / std))
        self.params.initialize()

    def hybrid_forward(self, F, x, scale=None, shift=None):
        if scale is not None:
            x = F.broadcast_sub(F.broadcast_mul(x, scale), shift)
        scores = self.network(x)
        return F.cast(F.argmax(scores, axis=1), dtype="uint8") if self._labels else scores


class Weighted(NamedTuple):
    """A symbol whose input is DATA, and the arrays of its arguments and auxiliary states by name."""

    symbol: mx.sym.Symbol
    arguments: Dict[str, mx.nd.NDArray]
    auxiliary: Dict[str, mx.nd.NDArray]

    @property
    def weights(self) -> Dict[str, mx.nd.NDArray]:
        return {**self.arguments, **self.auxiliary}

    def block(self) -> mx.gluon.SymbolBlock:
        """The graph to be called with arrays, on the CPU."""
        made = mx.gluon.SymbolBlock(self.symbol, mx.sym.var(DATA, dtype="float32"))
        parameters, weights = made.collect_params(), self.weights
        for name, parameter in parameters.items():
            parameter.shape, parameter.dtype = weights[name].shape, weights[name].dtype
            parameter.initialize(mx.init.Zero(), ctx=mx.cpu())
            parameter.set_data(weights[name])
        return made


def symbol_of(graph: Graph) -> mx.sym.Symbol:
    """The symbol of a graph, which may be uninitialised; the same for the same network."""
    tree = json.loads(graph(mx.sym.var(DATA)).tojson())
    for node in tree["nodes"]:  # of a Gluon Constant it is an object's address
        node.get("attrs", {}).pop("__init__", None)
    return mx.sym.load_json(json.dumps(tree))


def trace(graph: Graph) -> Weighted:
    """The symbol of an initialised graph, and the weights that it uses."""
    symbol = symbol_of(graph)
    auxiliary, arguments = set(symbol.list_auxiliary_states()), set(symbol.list_arguments())
    values = {name: p.data() for name, p in graph.collect_params().items() if name in auxiliary | arguments}
    return Weighted(
        symbol,
        {name: value for name, value in values.items() if name in arguments},
        {name: value for name, value in values.items() if name in auxiliary},
    )


def runner(weighted: Weighted) -> Callable[[np.ndarray], np.ndarray]:
    """What the graph does, from array to array."""
    block = weighted.block()
    return lambda batch: block(mx.nd.array(batch)).asnumpy()


def write(folder: Path, weighted: Weighted) -> List[str]:
    """The files of graph and weights; their names."""
    weighted.symbol.save(str(folder / SYMBOL_FILE))
    arguments = {f"arg:{name}": value for name, value in weighted.arguments.items()}
    auxiliary = {f"aux:{name}": value for name, value in weighted.auxiliary.items()}
    mx.nd.save(str(folder / WEIGHTS_FILE), {**arguments, **auxiliary})
    return [SYMBOL_FILE, WEIGHTS_FILE]
