"""A data set through a network: one confusion matrix per view, every image once, at its full resolution."""

from collections import deque
from typing import Callable, Dict, Sequence

import numpy as np
from tqdm import tqdm

from . import progress
from .confusion import ConfusionMatrix
from .data.base import SegmentationDataset
from .data.loader import EvalLoader
from .inference import Predictor

OnImage = Callable[[int, np.ndarray, np.ndarray, Dict[str, np.ndarray]], None]


def evaluate(
    dataset: SegmentationDataset,
    predictors: Sequence[Predictor],
    output_of_label: Dict[str, np.ndarray],
    *,
    workers: int,
    title: str,
    on_image: OnImage = lambda *_: None,
) -> Dict[str, ConfusionMatrix]:
    """Counts of each view of the predictors (one per device, of the same network) over a labelled data set.

    `output_of_label` maps, for each view, a uint8 label (255 = ignore) to the view's outputs. `on_image` is called with
    (index, image, label, predictions), in order. Memory does not grow with the number of images.
    """
    matrices = {key: ConfusionMatrix(int(table[table != 255].max()) + 1) for key, table in output_of_label.items()}
    pending = deque()  # one image in flight per device

    def finish(bar: tqdm) -> None:
        index, image, label, launched = pending.popleft()
        predictions = {key: prediction.asnumpy() for key, prediction in launched.items()}
        for key, matrix in matrices.items():
            matrix.update(output_of_label[key][label], predictions[key])
        on_image(index, image, label, predictions)
        bar.update()

    with progress.bar(len(dataset), title, "image") as bar:
        for index, image, label in EvalLoader(dataset, workers):
            pending.append((index, image, label, predictors[index % len(predictors)].launch(image)))
            if len(pending) >= len(predictors):
                finish(bar)
        while pending:
            finish(bar)
    return matrices
