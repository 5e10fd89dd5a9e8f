"""Batches and images in a fixed order, read ahead by threads."""

import contextlib
import itertools
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, List, Optional, Tuple, TypeVar

import cv2
import numpy as np

from ..errors import ConfsegError
from ..phases import phase
from .base import SegmentationDataset
from .decoded import Decoded, DecodedFiles
from .ordered import in_order
from .transforms import TrainTransform

_STREAM = 0  # keeps the shuffle's random numbers apart from the transform's, which also start from (seed, epoch)

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A training batch: images float32 NxCxHxW, labels uint8 NxHxW (255 = ignore), the images' ids."""

    images: np.ndarray
    labels: np.ndarray
    ids: List[str]


class TrainLoader:
    """Shuffled, transformed batches of one epoch after another.

    Order and content follow from (seed, epoch) and the transform alone, whatever the number of workers. The incomplete
    last batch is dropped. Decoded images stay in memory until `cache_bytes` are used, and in `files`, where given.
    `share` picks, of the indices of a batch, those that are read here: by default all.

    Raises ConfsegError for a split without labels and for one smaller than a batch.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: TrainTransform,
        batch_size: int,
        *,
        seed: int,
        workers: int,
        cache_bytes: int,
        files: Optional[DecodedFiles] = None,
        share: Callable[[List[int]], List[int]] = list,
    ):
        if not dataset.has_labels:
            raise ConfsegError(
                f"{dataset.name}: split {dataset.split!r} has no labels to train on; choose another split"
            )
        if len(dataset) < batch_size:
            raise ConfsegError(
                f"{dataset.name}: split {dataset.split!r} has {len(dataset)} images, fewer than a batch of "
                f"{batch_size}; lower the batch size"
            )
        self._dataset = dataset
        self._transform = transform
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers
        self._share = share
        self._decoded = Decoded(dataset, cache_bytes, files)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._dataset) // self._batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `first` on. A ConfsegError of a worker surfaces here.

        Leaving early ends the threads.
        """
        order = np.random.default_rng((_STREAM, self._seed, epoch)).permutation(len(self._dataset)).tolist()
        starts = range(first * self._batch_size, len(self) * self._batch_size, self._batch_size)
        batches = [self._share(order[start : start + self._batch_size]) for start in starts]

        def read(index: int) -> Tuple[np.ndarray, np.ndarray]:
            window = self._transform.window(self._decoded.size(index), epoch=epoch, sample=index)
            with phase("reading"):
                image, label = self._decoded.pair(index, window.last_row)
            with phase("augmenting"):
                return self._transform.cut(image, label, window)

        indices, ahead = itertools.chain.from_iterable(batches), 2 * len(batches[0])
        with contextlib.closing(_in_order(read, indices, self._workers, ahead)) as samples:
            for batch in batches:
                ids = [self._dataset.ids[index] for index in batch]
                images, labels = zip(*itertools.islice(samples, len(ids)))
                yield Batch(np.stack(images), np.stack(labels), ids)


class EvalLoader:
    """Iterates over (index, image uint8 RGB HxWx3, label uint8 HxW or None) of every image once, in order."""

    def __init__(self, dataset: SegmentationDataset, workers: int):
        self._dataset = dataset
        self._workers = workers

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Tuple[int, np.ndarray, Optional[np.ndarray]]]:
        def read(index: int) -> Tuple[int, np.ndarray, Optional[np.ndarray]]:
            with phase("reading"):
                return index, self._dataset.image(index), self._dataset.label(index)

        return _in_order(read, range(len(self._dataset)), self._workers, 2 * self._workers)


def _in_order(function: Callable[[int], T], items: Iterable[int], workers: int, ahead: int) -> Iterator[T]:
    cv2.setNumThreads(0)  # one thread per worker: OpenCV's own would compete with them
    return in_order(function, items, workers, ahead)
