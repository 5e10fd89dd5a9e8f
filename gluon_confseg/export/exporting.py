"""Export: the graph is written, described, run in a fresh process and compared before it is called done."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from .. import __version__
from ..backend import mx, settle, versions
from ..building import build_network, find_cell
from ..config_cells import Cell
from ..errors import ConfsegError
from ..files import PathLike, atomic_folder, sha256, write_json
from ..nn import ConfSegNet
from ..run import TrainedRun, open_run, read_spaces
from . import fresh, graph, int8, int8_onnx, int8_symbol, onnx_file
from .graph import DATA, Graph, Weighted
from .options import Options

CONTRACT_FILE = "network.json"
EXAMPLES = Path(__file__).resolve().parents[2] / "symbols"


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
    output : the folder to make, by default export/CELL-FORMAT (or CELL-FORMAT-int8) in the run's
    options : `labels` ends the graph in the label map (N, H, W) uint8 instead of log-scores (N, K, H, W) float32;
        `normalize` starts it with the normalisation, so that it takes RGB of 0..255; `int8` quantises every convolution
        of encoder and subnets, while fusion and upsampling stay in float32

    The folder holds the graph with its weights, network.json (classes, input and output contract, digests) and an
    example that runs it. The example was run on it in a process without this package, and gave what the network gives
    (fresh.TOLERANCE). For INT8, what the quantised graph gives here is compared, and network.json says what it was
    calibrated on, how many points of mIoU it costs and how fast it is (int8.py). Raises ConfsegError, and leaves
    nothing, where the outputs differ, where the run or the cell is none, where `output` exists, where images for INT8
    cannot be opened, and where ONNX is asked for and not installed.
    """
    options = options or Options()
    if options.format == "onnx":
        onnx_file.require_onnx()
        if options.int8:
            int8_onnx.require_quantization()
    run = open_run(folder, [mx.cpu()])
    cell = find_cell(run, cell_key)
    target = Path(output) if output else run.folder / "export" / f"{cell.key}-{options.name}"
    if target.exists():
        raise ConfsegError(f"{target} exists; remove it, or give another folder with --output")
    images = int8.Images(run, options) if options.int8 else None
    with mx.name.NameManager():  # so that names do not depend on what this process has built before
        network = build_network(run, cell.key, mx.cpu())
        made = Graph(network, run.config.augment, options)
        settle()
        weighted = graph.trace(made)
    with atomic_folder(target) as made:
        shutil.copyfile(EXAMPLES / f"run_{options.format}.py", made / f"run_{options.format}.py")
        if images is None:
            files, expected_of, quantised = _write(made, weighted, options), _float_of(network), {}
        else:
            files, expected_of, quantised = _write_int8(made, weighted, _kept(network), images, run, options)
        contract = {**_contract(run, cell, options, {file: sha256(made / file) for file in files}), **quantised}
        write_json(made / CONTRACT_FILE, contract)  # the example reads it
        contract["comparison"] = fresh.compare(made, expected_of, run, options)
        write_json(made / CONTRACT_FILE, contract)
    return target


def _write(folder: Path, weighted: Weighted, options: Options) -> List[str]:
    """The files of graph and weights; their names."""
    if options.format == "onnx":
        onnx_file.write(folder / onnx_file.ONNX_FILE, weighted, options.size)
        return [onnx_file.ONNX_FILE]
    return graph.write(folder, weighted)


def _float_of(network: ConfSegNet) -> fresh.ExpectedOf:
    return lambda normalized, _: network(mx.nd.array(normalized)).asnumpy()


def _kept(network: ConfSegNet) -> Tuple[str, ...]:
    """How the names of the operators start that stay in float32."""
    return network.fusion.prefix, network.upsample.prefix


def _write_int8(
    folder: Path, weighted: Weighted, kept: Tuple[str, ...], images: int8.Images, run: TrainedRun, options: Options
) -> Tuple[List[str], fresh.ExpectedOf, Dict[str, Any]]:
    """The quantised graph's files, what it gives here, and its part of the contract."""
    with tempfile.TemporaryDirectory() as scratch:
        if options.format == "onnx":
            engine, source, target = int8_onnx, Path(scratch) / onnx_file.ONNX_FILE, folder / onnx_file.ONNX_FILE
            onnx_file.write(source, weighted, options.size)
            int8_onnx.quantize(source, target, images.calibration(), kept)
            graphs = {"float32": onnx_file.runner(source), "int8": onnx_file.runner(target)}
            files = [onnx_file.ONNX_FILE]
        else:
            engine, quantised = int8_symbol, int8_symbol.quantize(weighted, images.calibration(), kept)
            files = graph.write(folder, quantised)
            graphs = {"float32": graph.runner(weighted), "int8": graph.runner(quantised)}
        measured = int8.measure(images, run, options, graphs)
    quantisation = {"engine": engine.ENGINE, "because": engine.WHY, "calibration": images.record(), **measured}
    return files, lambda _, given: graphs["int8"](given), {"int8": quantisation}


def _contract(run: TrainedRun, cell: Cell, options: Options, digests: Dict[str, str]) -> Dict[str, Any]:
    """What network.json says."""
    augment, names = run.config.augment, run.labels.classes
    groups = [group for group in read_spaces(run)[cell.spaces] if group] if cell.subnets else []
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
            "name": DATA,
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
        "versions": {
            "gluon_confseg": __version__,
            **versions(),
            **(onnx_file.versions() if options.format == "onnx" else {}),
        },
        "sha256": digests,
    }
