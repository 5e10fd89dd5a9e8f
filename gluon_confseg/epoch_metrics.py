"""What an epoch's log says: losses and confusion matrices on the training crops."""

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import numpy as np
from typing_extensions import Protocol

from .confusion import ConfusionMatrix
from .data.loader import Batch


class HeadLike(Protocol):
    """What is needed of a training.Head."""

    name: str
    block: Any
    output_of_label: np.ndarray


@dataclass
class EpochMetrics:
    """Per head, the summed loss and the confusion matrix on an epoch's crops, at the features' resolution."""

    losses: Dict[str, float]
    matrices: Dict[str, ConfusionMatrix]
    samples: int = 0

    @classmethod
    def empty(cls, heads: Sequence[HeadLike]) -> "EpochMetrics":
        matrices = {head.name: ConfusionMatrix(head.block.subnet.num_outputs) for head in heads}
        return cls({head.name: 0.0 for head in heads}, matrices)

    @classmethod
    def from_tree(cls, tree: Dict[str, Any]) -> "EpochMetrics":
        """What `to_tree` gave."""
        matrices = {
            name: ConfusionMatrix.from_counts(np.array(counts, np.int64)) for name, counts in tree["counts"].items()
        }
        return cls(dict(tree["losses"]), matrices, tree["samples"])

    def to_tree(self) -> Dict[str, Any]:
        """As plain JSON-able data."""
        counts = {name: matrix.counts.tolist() for name, matrix in self.matrices.items()}
        return {"losses": self.losses, "counts": counts, "samples": self.samples}

    def add(self, heads: Sequence[HeadLike], batch: Batch, losses: np.ndarray, logits: List[np.ndarray]) -> None:
        self.samples += len(batch.ids)
        for head, loss, scores in zip(heads, losses, logits):
            self.losses[head.name] += float(loss.sum())
            stride = -(-batch.labels.shape[1] // scores.shape[2])
            label = head.output_of_label[batch.labels[:, stride // 2 :: stride, stride // 2 :: stride]]
            height, width = label.shape[1:]
            self.matrices[head.name].update(label, scores[:, :, :height, :width].argmax(axis=1))

    def loss(self, name: str) -> float:
        return self.losses[name] / max(self.samples, 1)

    def summary(self) -> Dict[str, str]:
        """Mean over the heads of the loss, and of mIoU in percent."""
        loss = np.mean([self.loss(name) for name in self.losses])
        miou = 100 * np.nanmean([matrix.mean_iou() for matrix in self.matrices.values()])
        return {"loss": f"{loss:.3f}", "train mIoU": f"{miou:.1f}"}
