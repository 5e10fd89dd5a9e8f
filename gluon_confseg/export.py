"""A run's network as one graph from image to scores or labels, compared with the network before it is called done."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from . import __version__
from .backend import mx, settle, versions
from .building import build_network, find_cell
from .config import Cell
from .data.transforms import normalize
from .errors import ConfsegError
from .files import PathLike, sha256, write_json
from .nn import ConfSegNet
from .run import TrainedRun, open_run, read_groups

FORMATS = ("symbol", "onnx")
CONTRACT_FILE = "network.json"
EXAMPLES = Path(__file__).resolve().parent.parent / "symbols"
TOLERANCE = {"symbol": 0.0, "onnx": 1e-4}  # of log-scores, relative to those beyond 1
_CHECK_SHAPES = ((1, 64, 96), (2, 51, 77))  # images, height, width: one that the output stride divides, one odd
_INSTALL_ONNX = "pip install -e '.[onnx]' in the project's folder"
_OPSET = 13  # what MXNet's translations are written for; it would stamp whatever the onnx package knows
_IR_VERSION = 8
_DATA = "data"

# Run by `python -I`: neither this package nor what only it needs can be imported.
_FRESH_PROCESS = """
import runpy, sys
import numpy as np
script, folder, blocked, *batches = sys.argv[1:]
sys.modules.update(dict.fromkeys(blocked.split(",")))
network = runpy.run_path(script)["Network"](folder)
for batch in batches:
    np.save(batch, network.run(np.load(batch)))
"""
_BLOCKED = {"symbol": "gluon_confseg,gluoncv,cv2,onnx,onnxruntime", "onnx": "gluon_confseg,gluoncv,cv2,mxnet,onnx"}


@dataclass(frozen=True)
class Options:
    """What to export: `size` is (height, width), or None for any; see `export`."""

    format: str = "symbol"
    size: Optional[Tuple[int, int]] = None
    labels: bool = False
    normalize: bool = False


def export(
    folder: PathLike,
    cell_key: Optional[str] = None,
    output: Optional[PathLike] = None,
    options: Optional[Options] = None,
) -> Path:
    """Export the network of a cell of a finished run; returns the new folder.

    Parameters
    ----------
    folder : the run's
    cell_key : a cell of its config; by default the last one of the paper's
    output : the folder to make, by default export/CELL-FORMAT in the run's
    options : `labels` ends the graph in the label map (N, H, W) uint8 instead of log-scores (N, K, H, W) float32;
        `normalize` starts it with the normalisation, so that it takes RGB of 0..255

    The folder holds the graph with its weights, network.json (classes, input and output contract, digests) and an
    example that runs it. The example was run on it in a process without this package, and gave what the network gives
    (TOLERANCE). Raises ConfsegError, and leaves nothing, where it did not, where the run or the cell is none, where
    `output` exists, and where ONNX is asked for and not installed.
    """
    options = options or Options()
    if options.format == "onnx":
        _require_onnx()
    run = open_run(folder, [mx.cpu()])
    cell = find_cell(run, cell_key)
    target = Path(output) if output else run.folder / "export" / f"{cell.key}-{options.format}"
    if target.exists():
        raise ConfsegError(f"{target} exists; remove it, or give another folder with --output")
    network = build_network(run, cell.key, mx.cpu())
    settle()
    with _new_folder(target) as made:
        files = _write_graph(made, network, run, options)
        shutil.copyfile(EXAMPLES / f"run_{options.format}.py", made / f"run_{options.format}.py")
        contract = _contract(run, cell, options, {file: sha256(made / file) for file in files})
        write_json(made / CONTRACT_FILE, contract)  # the example reads it
        contract["comparison"] = _compare(made, network, run, options)
        write_json(made / CONTRACT_FILE, contract)
    return target


class _Graph(mx.gluon.HybridBlock):
    """What is exported: the network, with normalisation before it and arg max behind it where asked."""

    def __init__(self, network: ConfSegNet, run: TrainedRun, options: Options):
        super().__init__()
        self._labels = options.labels
        with self.name_scope():
            self.network = network
            if options.normalize:  # with the float32 constants of data.transforms.normalize
                augment = run.config.augment
                mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (augment.mean, augment.std))
                self.scale = self.params.get_constant("scale", np.float32(1 / (255 * std)))
                self.shift = self.params.get_constant("shift", np.float32(mean / std))
        self.params.initialize()

    def hybrid_forward(self, F, x, scale=None, shift=None):
        if scale is not None:
            x = F.broadcast_sub(F.broadcast_mul(x, scale), shift)
        scores = self.network(x)
        return F.cast(F.argmax(scores, axis=1), dtype="uint8") if self._labels else scores


def _write_graph(folder: Path, network: ConfSegNet, run: TrainedRun, options: Options) -> List[str]:
    """The files of graph and weights; their names."""
    graph = _Graph(network, run, options)
    symbol = graph(mx.sym.var(_DATA))
    auxiliary = set(symbol.list_auxiliary_states())
    used = auxiliary | set(symbol.list_arguments())
    weights = {name: p.data() for name, p in graph.collect_params().items() if name in used}
    if options.format == "onnx":
        _write_onnx(folder / "network.onnx", symbol, weights, options.size)
        return ["network.onnx"]
    symbol.save(str(folder / "network-symbol.json"))
    kinds = {name: "aux" if name in auxiliary else "arg" for name in weights}
    mx.nd.save(str(folder / "network.params"), {f"{kinds[name]}:{name}": value for name, value in weights.items()})
    return ["network-symbol.json", "network.params"]


def _require_onnx() -> None:
    try:
        import onnx.mapping  # noqa: F401  gone in onnx 1.19, and MXNet's exporter uses it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        wanted = f"--format onnx wants onnx 1.16 to 1.18 and onnxruntime ({error})"
        raise ConfsegError(f"{wanted}: {_INSTALL_ONNX}") from None


def _write_onnx(
    path: Path, symbol: mx.sym.Symbol, weights: Dict[str, mx.nd.NDArray], size: Optional[Tuple[int, int]]
) -> None:
    import onnx

    mx.onnx.mx2onnx._export_onnx.MXNetGraph.register("_contrib_BilinearResize2D", _OPSET)(_resize_to_onnx)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`mapping", category=DeprecationWarning)  # MXNet's use of onnx
        mx.onnx.export_model(
            symbol,
            weights,
            [(1, 3, *(size or _CHECK_SHAPES[0][1:]))],
            np.float32,
            str(path),
            dynamic=size is None,
            dynamic_input_shapes=None if size else [("batch", 3, "height", "width")],
        )
    model = onnx.load(str(path))
    _tidy(model, [1, *size] if size else ["batch", "height", "width"])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


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
    model.opset_import[0].version = _OPSET


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


def _contract(run: TrainedRun, cell: Cell, options: Options, digests: Dict[str, str]) -> Dict[str, Any]:
    """What network.json says."""
    augment, names = run.config.augment, run.labels.classes
    groups = read_groups(run) if cell.subnets else []
    scores = {"name": "scores", "layout": "NCHW", "dtype": "float32", "meaning": "log-scores; the largest is the class"}
    labels = {"name": "labels", "layout": "NHW", "dtype": "uint8", "meaning": "indices into classes"}
    formula = {"mean": augment.mean, "std": augment.std, "formula": "(x / 255 - mean) / std"}
    return {
        "format": 1,
        "kind": options.format,
        "name": run.config.name,
        "cell": cell.model_dump(mode="json"),
        "classes": names,
        "colors": run.labels.colors,
        "groups": [{"classes": [names[c] for c in group.classes], "reason": group.reason} for group in groups],
        "input": {
            "name": _DATA,
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "RGB",
            "batch": 1 if options.size else "dynamic",
            "size": "dynamic" if options.size is None else list(options.size),
            "scale": run.config.data.scale,
            "normalization": "inside" if options.normalize else formula,
        },
        "output": {**(labels if options.labels else scores), "size": "the input's"},
        "evaluated_with_flip": run.config.evaluation.flip,
        "versions": {"gluon_confseg": __version__, **versions(), **_onnx_versions(options.format)},
        "sha256": digests,
    }


def _onnx_versions(kind: str) -> Dict[str, Any]:
    if kind != "onnx":
        return {}
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": _OPSET}


def _compare(folder: Path, network: ConfSegNet, run: TrainedRun, options: Options) -> Dict[str, Any]:
    """Run the example in a fresh process; ConfsegError where its outputs are not the network's."""
    shapes = [(1, *options.size)] * 2 if options.size else _CHECK_SHAPES
    tolerance, largest = TOLERANCE[options.format], 0.0
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    mean, std = run.config.augment.mean, run.config.augment.std
    inputs = [np.stack([normalize(image, mean, std) for image in batch]) for batch in batches]
    given = [np.float32(batch.transpose(0, 3, 1, 2)) for batch in batches] if options.normalize else inputs
    for (_, *size), x, output in zip(shapes, inputs, _run_fresh(folder, options.format, given)):
        expected = network(mx.nd.array(x)).asnumpy()
        difference, allowed = _difference(expected, output, options.labels, tolerance)
        if not np.all(difference <= allowed):  # also where it is NaN
            raise ConfsegError(
                f"the exported network differs from the trained one by {np.max(difference):.3g} at "
                f"{size[0]}x{size[1]} (allowed: {tolerance}), nothing was written; please report it"
            )
        largest = max(largest, float(np.max(difference)))
    return {"sizes": [list(size) for _, *size in shapes], "tolerance": tolerance, "largest_difference": largest}


def _difference(
    expected: np.ndarray, output: np.ndarray, labels: bool, tolerance: float
) -> Tuple[np.ndarray, np.ndarray]:
    """How far each score is off, or, of a label map, how far the label's score is below the best; and what may be."""
    best = expected.max(axis=1)
    if output.shape != (best.shape if labels else expected.shape) or (labels and output.max() >= expected.shape[1]):
        return np.array(np.inf), np.array(tolerance)
    if labels:
        chosen = np.take_along_axis(expected, output[:, None].astype(int), axis=1)[:, 0]
        return best - chosen, tolerance * np.maximum(1, np.abs(best))
    return np.abs(output - expected), tolerance * np.maximum(1, np.abs(expected))


def _run_fresh(folder: Path, kind: str, batches: List[np.ndarray]) -> List[np.ndarray]:
    """Outputs of the folder's own example, in a process that cannot import this package."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, f"{i}.npy") for i in range(len(batches))]
        for path, batch in zip(paths, batches):
            np.save(path, batch)
        start = [sys.executable, "-I", "-B", "-c", _FRESH_PROCESS, str(folder / f"run_{kind}.py"), str(folder)]
        done = subprocess.run([*start, _BLOCKED[kind], *paths], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ConfsegError(f"the exported network does not run ({reason}), nothing was written; please report it")
        return [np.load(path) for path in paths]


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, renamed to it on success, otherwise removed."""
    made = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield made
        umask = os.umask(0)
        os.umask(umask)
        made.chmod(0o777 & ~umask)  # mkdtemp makes private folders
        made.rename(target)
    except OSError as error:
        raise ConfsegError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
