"""An exported folder's own example, run in a process that cannot import this package, and its outputs compared."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from ..data.transforms import normalize
from ..errors import ConfsegError
from ..run import TrainedRun
from .options import Options

# (normalised images, what the graph takes), both float32 (N, 3, H, W) -> scores or labels
ExpectedOf = Callable[[np.ndarray, np.ndarray], np.ndarray]

TOLERANCE = {"symbol": 0.0, "onnx": 1e-4}  # of log-scores, relative to those beyond 1
_SHAPES = ((1, 64, 96), (2, 51, 77))  # images, height, width: one that the output stride divides, one odd

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


def compare(folder: Path, expected_of: ExpectedOf, run: TrainedRun, options: Options) -> Dict[str, Any]:
    """Run the example in a fresh process; ConfsegError where its outputs are not the expected ones."""
    shapes = [(1, *options.size)] * 2 if options.size else _SHAPES
    tolerance, largest = TOLERANCE[options.format], 0.0
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    mean, std = run.config.augment.mean, run.config.augment.std
    inputs = [np.stack([normalize(image, mean, std) for image in batch]) for batch in batches]
    given = [np.float32(batch.transpose(0, 3, 1, 2)) for batch in batches] if options.normalize else inputs
    for (_, *size), x, raw, output in zip(shapes, inputs, given, _run_fresh(folder, options.format, given)):
        difference, allowed = _difference(expected_of(x, raw), output, options.labels, tolerance)
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
    """How far each score is off, or, of a label map, how far the label's score is below the best; and what may be.

    Where `expected` are labels too, there is no score: another label is infinitely off.
    """
    if expected.ndim == 3:
        same = output.shape == expected.shape and output == expected
        return np.where(same, 0.0, np.inf), np.array(tolerance)
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
