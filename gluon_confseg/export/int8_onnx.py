"""An ONNX file in INT8 by onnxruntime's static quantisation: QuantizeLinear/DequantizeLinear pairs (QDQ)."""

from pathlib import Path
from typing import Iterable, Iterator, Sequence

import numpy as np

from ..errors import ConfsegError
from .graph import DATA
from .onnx_file import INSTALL

ENGINE = "onnxruntime's static quantisation (QDQ)"
WHY = "MXNet's INT8 operators have no ONNX form"
_OPERATORS = ["Conv", "Relu", "Add", "MaxPool", "Concat", "Split", "Slice"]
_MEASURED = ["Softmax"]  # stays in float32; onnxruntimes of Python 3.8 fail over one whose range was not measured


def require_quantization() -> None:
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise ConfsegError(f"--format onnx --int8 wants onnxruntime's quantisation ({error}): {INSTALL}") from None


def quantize(source: Path, target: Path, batches: Iterable[np.ndarray], keep: Sequence[str]) -> None:
    """Write the ONNX file `source` in INT8 to `target`; BatchNorm is folded into the convolutions first.

    batches : what the graph takes, float32 (N, 3, H, W); the range of every tensor is its smallest and largest value
    keep : operators whose names start with one of these stay in float32

    Weights have a scale per output channel and 7 bits: CPUs without VNNI add pairs of 8-bit products in 16 bits, and
    would clip (onnxruntime's `reduce_range`). Activations are uint8.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, iterator: Iterator[np.ndarray]):
            self._iterator = iterator

        def get_next(self):
            return next(({DATA: batch} for batch in self._iterator), None)

    folded = target.with_suffix(".folded.onnx")
    try:
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        graph = onnx.load(str(folded))
        for node in graph.graph.node:
            node.name = node.name or node.output[0]  # folding leaves nodes without names, which cannot be excluded
        onnx.save(graph, str(folded))
        kept = [n.name for n in graph.graph.node if n.name.startswith(tuple(keep)) or n.op_type in _MEASURED]
        quantize_static(
            str(folded),
            str(target),
            Reader(iter(batches)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_OPERATORS, *_MEASURED],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        folded.unlink(missing_ok=True)
