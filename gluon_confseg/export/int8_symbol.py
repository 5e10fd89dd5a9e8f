"""MXNet's graph in INT8 by MXNet's own quantisation, for oneDNN on CPUs.

It takes these networks as they are: BatchNorm, ReLU and the residual sum are folded into their convolution, dilated or
not, and every convolution runs in INT8 on inputs whose range is that of the calibration images.
"""

from typing import Iterable, Sequence

import numpy as np

from ..backend import mx, settle
from .graph import Weighted

ENGINE = "MXNet's quantisation for oneDNN"
WHY = "the graph stays MXNet's, and it handles dilation, BatchNorm and residual sums of these networks"
_BACKEND = "MKLDNN_QUANTIZE"  # the passes that fold into convolutions what follows them
_QUANTIZED = "auto"  # uint8 where the calibration images give no negative value (after ReLU), otherwise int8


def quantize(weighted: Weighted, batches: Iterable[np.ndarray], keep: Sequence[str]) -> Weighted:
    """The graph in INT8, with one scale per output channel of the weights and one per tensor of activations.

    batches : what the graph takes, float32 (N, 3, H, W); the range of every tensor is its smallest and largest value
    keep : operators whose names start with one of these stay in float32

    The weights stay float32 in memory and on disk: oneDNN quantises them when they are first used.
    """
    folded = weighted._replace(symbol=weighted.symbol.get_backend_symbol(_BACKEND))
    names = [node.name for node in folded.symbol.get_internals()]
    symbol, _, _, collector = mx.contrib.quantization.quantize_graph(
        *folded,
        excluded_sym_names=[name for name in names if name.startswith(tuple(keep))],
        excluded_op_names=[],
        calib_mode="naive",
        quantized_dtype=_QUANTIZED,
        quantize_mode="smart",
        quantize_granularity="channel-wise",
    )
    _observe(folded, batches, collector)
    symbol, arguments, auxiliary = mx.contrib.quantization.calib_graph(
        symbol, folded.arguments, folded.auxiliary, collector, "naive", _QUANTIZED, logger=None
    )
    return Weighted(symbol.get_backend_symbol(_BACKEND), arguments, auxiliary)


def _observe(weighted: Weighted, batches: Iterable[np.ndarray], collector) -> None:
    block = weighted.block()
    block.register_op_hook(lambda name, _, array: collector.collect(name, array), monitor_all=True)
    for batch in batches:
        block(mx.nd.array(batch))
        settle()
