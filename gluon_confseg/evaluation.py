"""A data set through a network: one confusion matrix per view, every image once, at its full resolution; resumable."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np

from . import progress
from .confusion import ConfusionMatrix
from .data.base import SegmentationDataset
from .data.loader import EvalLoader
from .errors import ConfsegError
from .files import read_npz, write_npz
from .inference import Predictor, label_all
from .phases import phase, waiting
from .plain_data import parse_json
from .workers import ALONE, Job

_log = logging.getLogger(__name__)

SAVE_SECONDS = 20.0  # between two writes of the state: what a kill may cost


@dataclass(frozen=True)
class Counted:
    """Counts of each view, and the ids of the images they were counted on. Replaced as a whole by what follows it."""

    matrices: Dict[str, ConfusionMatrix]
    ids: Tuple[str, ...] = ()

    def and_image(self, id_: str, added: Dict[str, ConfusionMatrix]) -> "Counted":
        """With one more image."""
        return Counted({key: matrix + added[key] for key, matrix in self.matrices.items()}, (*self.ids, id_))


class State:
    """A file that keeps what was counted so far, for one evaluation.

    path : written atomically, by `save`; `save_sometimes` leaves SAVE_SECONDS between two writes
    key : says what is evaluated, and how; the file of another evaluation, or a damaged one, is as good as none

    A file that cannot be written is said once, and the evaluation goes on without.
    """

    def __init__(self, path: Path, key: str):
        self._path, self._key = path, key
        self._saved_at = time.monotonic()
        self._saved: Optional[Counted] = None
        self._usable = True

    def load(self, empty: Counted) -> Counted:
        """What was counted before, or `empty`."""
        if not self._path.exists():
            return empty
        try:
            self._saved = self._read(empty)
        except ConfsegError as error:
            _log.warning("%s; counting starts over", error)
            return empty
        _log.info("%d of the images were counted before, skipped (%s)", len(self._saved.ids), self._path)
        return self._saved

    def _read(self, empty: Counted) -> Counted:
        arrays = read_npz(self._path)
        try:
            meta = parse_json(str(arrays.pop("meta")[()]))
            found = {key: ConfusionMatrix.from_counts(counts) for key, counts in arrays.items()}
            sizes = {key: matrix.num_classes for key, matrix in found.items()}
            fits = meta["key"] == self._key and sizes == {k: m.num_classes for k, m in empty.matrices.items()}
            ids = tuple(meta["ids"])
        except (KeyError, TypeError, ValueError, ConfsegError) as error:
            raise ConfsegError(f"{self._path} does not hold an evaluation's state") from error
        if not fits:
            raise ConfsegError(f"{self._path} is the state of another evaluation")
        return Counted({key: found[key] for key in empty.matrices}, ids)

    def save_sometimes(self, counted: Counted) -> None:
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self.save(counted)

    def save(self, counted: Counted) -> None:
        if counted is self._saved or not counted.ids or not self._usable:
            return
        meta = np.array(json.dumps({"key": self._key, "ids": counted.ids}))
        try:
            write_npz(self._path, {"meta": meta, **{key: matrix.counts for key, matrix in counted.matrices.items()}})
        except ConfsegError as error:
            self._usable = False
            _log.warning("the evaluation cannot be continued later if it is interrupted: %s", error)
        self._saved, self._saved_at = counted, time.monotonic()

    def remove(self) -> None:
        """To be called once the result is where the user wants it."""
        if self._saved is not None and self._usable:
            self._path.unlink()


@dataclass(frozen=True)
class _Part:
    """Some images of a data set, as `EvalLoader` reads them."""

    dataset: SegmentationDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, number: int) -> np.ndarray:
        return self.dataset.image(self.indices[number])

    def label(self, number: int) -> np.ndarray:
        return self.dataset.label(self.indices[number])


def evaluate(
    dataset: SegmentationDataset,
    predictors: Sequence[Predictor],
    output_of_label: Dict[str, np.ndarray],
    *,
    workers: int,
    title: str,
    state: Optional[State] = None,
    job: Job = ALONE,
) -> Dict[str, ConfusionMatrix]:
    """Counts of each view of the predictors (one per device, of the same network) over a labelled data set.

    `output_of_label` maps, for each view, a uint8 label (255 = ignore) to the view's outputs. Memory does not grow with
    the number of images. With `state`, images whose ids it holds are neither read nor counted again, and an
    interruption, whatever it is, leaves it on disk. The workers of a `job` share the images, without a state, and all
    return the counts of all.
    """
    outputs = {key: int(table[table != 255].max()) + 1 for key, table in output_of_label.items()}
    counted = Counted({key: ConfusionMatrix(number) for key, number in outputs.items()})
    state = state if job.count == 1 else None
    counted = state.load(counted) if state else counted
    before = set(counted.ids)
    left = [index for index, id_ in enumerate(dataset.ids) if id_ not in before]
    part = _Part(dataset, job.share(left))

    def images() -> Iterator[Tuple[Tuple[int, np.ndarray], np.ndarray]]:
        for number, image, label in EvalLoader(part, workers):
            yield (part.indices[number], label), image

    total = len(before) + len(part)
    with progress.bar(total, title, "image", initial=len(before), shown=job.first) as bar:
        try:
            for (index, label), _, predictions in label_all(predictors, waiting(images(), "waiting for images")):
                added = {key: ConfusionMatrix(number) for key, number in outputs.items()}
                with phase("counting"):
                    # views share tables
                    truth = {id(table): cv2.LUT(label, table) for table in output_of_label.values()}
                    for key, matrix in added.items():
                        matrix.update(truth[id(output_of_label[key])], predictions[key])
                counted = counted.and_image(dataset.ids[index], added)  # one assignment: Ctrl-C finds all of it or none
                if state:
                    state.save_sometimes(counted)
                bar.update()
        except BaseException:
            if state:
                state.save(counted)
            raise
    return {key: ConfusionMatrix.from_counts(job.total_counts(m.counts)) for key, m in counted.matrices.items()}
