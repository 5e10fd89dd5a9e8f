"""What INT8 takes and costs: images to calibrate on, mIoU and time against float32.

Milliseconds per image by tools/benchmarks/int8.py, one thread of an AVX-512 VNNI CPU that others were using too:

    network                 symbol   symbol INT8   ONNX   ONNX INT8
    small, 360x480              83            39     46          21
    resnet50_v1b, 256x512     1458           413   1334         427
"""

import logging
import os
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from .. import evaluation, progress
from ..backend import mx
from ..building import label_table
from ..data import SegmentationDataset
from ..data.base import read_image
from ..data.transforms import at_scale, normalize
from ..errors import ConfsegError
from ..prediction import find_images
from ..run import TrainedRun
from ..using import open_split
from .options import Options

Run = Callable[[np.ndarray], np.ndarray]  # what a graph does: float32 (N, 3, H, W) -> scores or labels

CALIBRATION_IMAGES = 32
LARGE_DROP = 0.5  # points of mIoU that are worth a warning
_REPEATS = 5

_log = logging.getLogger(__name__)


class Images:
    """The images that INT8 is calibrated on and measured on; opened before anything is computed.

    Raises ConfsegError where they cannot be opened. `calibration` is at most CALIBRATION_IMAGES, evenly spaced, of the
    folder of `options.int8`, otherwise of the run's training split; `labelled` is the run's validation split.
    """

    def __init__(self, run: TrainedRun, options: Options):
        self._run, self._options, settings = run, options, options.int8
        if settings.images is not None:
            self._paths = [source.path for source in find_images([settings.images])]
            self._source = "images of a folder"
        else:
            train, _ = open_split(run, settings.data_root, training=True)
            self._paths = [train.image_path(index) for index in range(len(train))]
            self._source = f"{train.name} {train.split}"
        spaced = np.linspace(0, len(self._paths) - 1, min(len(self._paths), CALIBRATION_IMAGES))
        self._paths = [self._paths[int(index)] for index in spaced]
        self.labelled, _ = open_split(run, settings.data_root)

    def calibration(self) -> Iterator[np.ndarray]:
        """What the graph takes, image by image, float32 (1, 3, H, W)."""
        with progress.bar(len(self._paths), "calibrate", "image") as bar:
            for path in self._paths:
                yield self.prepare(read_image(path))
                bar.update()

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H, W, 3) at any resolution -> what the graph takes."""
        image, size = at_scale(image, self._run.config.data.scale), self._options.size
        if size is not None and image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        if self._options.normalize:
            return np.float32(image.transpose(2, 0, 1)[None])
        return normalize(image, self._run.config.augment.mean, self._run.config.augment.std)[None]

    def record(self) -> Dict[str, Any]:
        return {"images": len(self._paths), "source": self._source, "ranges": "smallest and largest value"}


def measure(images: Images, run: TrainedRun, options: Options, graphs: Dict[str, Run]) -> Dict[str, Any]:
    """mIoU and milliseconds of the graphs "float32" and "int8" on the validation images; a large drop is warned of."""
    dataset = _First(images.labelled, options.int8.limit)
    table = label_table(np.arange(run.num_classes))
    counted = evaluation.evaluate(
        dataset,
        [_Labeller(images, graphs)],
        dict.fromkeys(graphs, table),
        workers=run.config.data.workers,
        title="measure INT8",
    )
    if not counted["int8"].counts.any():
        raise ConfsegError(f"{dataset.name} {dataset.split}: no pixel of the first {len(dataset)} images is labelled")
    miou = {key: 100 * matrix.mean_iou() for key, matrix in counted.items()}
    drop = miou["float32"] - miou["int8"]
    if drop > LARGE_DROP:
        _log.warning("INT8 costs %.2f points of mIoU (%.2f to %.2f)", drop, miou["float32"], miou["int8"])
    measured = {"split": dataset.split, "images": len(dataset), "of": len(images.labelled), "flip": False}
    batch = images.prepare(dataset.image(0))
    return {
        "measured_on": {"dataset": dataset.name, **measured},
        "miou": miou,
        "miou_drop": drop,
        "milliseconds": milliseconds(graphs, batch),
        "milliseconds_are": {"size": list(batch.shape[2:]), "threads": threads(), "median_of": _REPEATS},
    }


def milliseconds(graphs: Dict[str, Run], batch: np.ndarray, repeats: int = _REPEATS) -> Dict[str, float]:
    """Median time of each graph on `batch`, in turns, after one pass that does not count."""
    seconds: Dict[str, List[float]] = {key: [] for key in graphs}
    for _ in range(repeats + 1):
        for key, graph in graphs.items():
            started = time.perf_counter()
            graph(batch)
            seconds[key].append(time.perf_counter() - started)
    return {key: round(1000 * float(np.median(values[1:])), 2) for key, values in seconds.items()}


def threads() -> int:
    """MXNet's threads, which onnxruntime is given too; backend.py has set the variable."""
    return int(os.environ["OMP_NUM_THREADS"])


class _First:
    """The first `limit` images of a data set."""

    def __init__(self, dataset: SegmentationDataset, limit: Optional[int]):
        self.name, self.split = dataset.name, dataset.split
        self.image, self.label = dataset.image, dataset.label
        self.ids = dataset.ids[:limit]

    def __len__(self) -> int:
        return len(self.ids)


class _Labeller:
    """Label maps of an image by several graphs, as `evaluation.evaluate` asks for them."""

    def __init__(self, images: Images, graphs: Dict[str, Run]):
        self._images, self._graphs = images, graphs

    def launch(self, image: np.ndarray) -> Iterator[Dict[str, mx.nd.NDArray]]:
        batch = self._images.prepare(image)
        yield {key: _label_map(graph(batch), image.shape[:2]) for key, graph in self._graphs.items()}


def _label_map(output: np.ndarray, size: Tuple[int, int]) -> mx.nd.NDArray:
    """Scores (1, K, h, w) or labels (1, h, w) -> labels (H, W) at `size`, uint8."""
    if output.ndim == 3:
        nearest = cv2.resize(output[0], size[::-1], interpolation=cv2.INTER_NEAREST)
        return mx.nd.array(nearest, dtype="uint8")
    scores = mx.nd.array(output)
    if scores.shape[2:] != size:
        scores = mx.nd.contrib.BilinearResize2D(scores, height=size[0], width=size[1], align_corners=False)
    return scores.argmax(axis=1)[0].astype("uint8")
