"""MXNet's graph as an ONNX file."""

import os
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ..backend import mx
from ..errors import ConfsegError
from .graph import DATA, Weighted

ONNX_FILE = "network.onnx"
INSTALL = "pip install -e '.[onnx]' in the project's folder"
OPSET = 13  # what MXNet's translations are written for; it would stamp whatever the onnx package knows
_IR_VERSION = 8
_EXAMPLE_SIZE = (64, 96)


def require_onnx() -> None:
    try:
        import onnx.mapping  # noqa: F401  gone in onnx 1.19, and MXNet's exporter uses it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        wanted = f"--format onnx wants onnx 1.16 to 1.18 and onnxruntime ({error})"
        raise ConfsegError(f"{wanted}: {INSTALL}") from None


def write(path: Path, weighted: Weighted, size: Optional[Tuple[int, int]]) -> None:
    """The graph as ONNX, for any batch and image size, or for one image of `size`."""
    import onnx

    mx.onnx.mx2onnx._export_onnx.MXNetGraph.register("_contrib_BilinearResize2D", OPSET)(_resize_to_onnx)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`mapping", category=DeprecationWarning)  # MXNet's use of onnx
        mx.onnx.export_model(
            weighted.symbol,
            weighted.weights,
            [(1, 3, *(size or _EXAMPLE_SIZE))],
            np.float32,
            str(path),
            dynamic=size is None,
            dynamic_input_shapes=None if size else [("batch", 3, "height", "width")],
        )
    model = onnx.load(str(path))
    _tidy(model, [1, *size] if size else ["batch", "height", "width"])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What the file does, from array to array, with as many threads as MXNet has."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])  # backend.py has set it
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {DATA: batch})[0]


def _tidy(model: Any, shape: List[Any]) -> None:
    """Weights are no inputs, none is left over, the output has a name and a shape, the version is the true one."""
    import onnx

    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    initializers = {tensor.name for tensor in graph.initializer}
    for kept in (
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used]),
        (graph.input, [value for value in graph.input if value.name not in initializers]),
    ):
        _replace(*kept)
    (output,) = graph.output
    (last,) = [node for node in graph.node if output.name in node.output]
    batch, height, width = shape
    labels = output.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    output_name = "labels" if labels else "scores"
    last.output[list(last.output).index(output.name)] = output_name
    inner = [batch, height, width] if labels else [batch, None, height, width]
    value = onnx.helper.make_tensor_value_info(output_name, output.type.tensor_type.elem_type, inner)
    _replace(graph.output, [value])
    model.ir_version = _IR_VERSION
    model.opset_import[0].version = OPSET


def _replace(repeated: Any, values: List[Any]) -> None:
    """Put `values` into a repeated protobuf field."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del repeated[:]
    repeated.extend(copies)


def _resize_to_onnx(node: Dict[str, Any], **kwargs: Any) -> List[Any]:
    """BilinearResize2D(x, like, mode="like", align_corners=False); MXNet's own translation has neither."""
    from onnx.helper import make_node

    helpers = mx.onnx.mx2onnx._op_translations._op_translations_opset12
    name, (x, like), attributes = helpers.get_inputs(node, kwargs)
    if attributes.get("mode") != "like" or attributes.get("align_corners", "True") not in ("False", "0"):
        raise NotImplementedError(f"{name}: only mode='like' with align_corners=False is translated")
    for suffix, value in (("0", 0), ("2", 2), ("4", 4)):
        helpers.create_tensor([value], f"{name}_{suffix}", kwargs["initializer"])
    return [
        make_node("Shape", [x], [f"{name}_shape"]),
        make_node("Slice", [f"{name}_shape", f"{name}_0", f"{name}_2"], [f"{name}_outer"]),
        make_node("Shape", [like], [f"{name}_like"]),
        make_node("Slice", [f"{name}_like", f"{name}_2", f"{name}_4"], [f"{name}_inner"]),
        make_node("Concat", [f"{name}_outer", f"{name}_inner"], [f"{name}_sizes"], axis=0),
        make_node(
            "Resize",
            [x, "", "", f"{name}_sizes"],
            [name],
            name=name,
            mode="linear",
            coordinate_transformation_mode="pytorch_half_pixel",
        ),
    ]


def versions() -> Dict[str, Any]:
    """What decides how the file runs, for its record."""
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET}
