"""What an epoch's log says: losses and confusion matrices on the training crops."""

from dataclasses import dataclass
from typing import Any, Dict, Sequence

import numpy as np

from .confusion import ConfusionMatrix
from .data.loader import Batch
from .errors import ConfsegError
from .feature_gradients import TINY
from .heads import Head
from .workers import Job


@dataclass
class EpochMetrics:
    """Per head, summed loss and norms, and the confusion matrix on an epoch's crops, at the features' resolution."""

    losses: Dict[str, float]
    matrices: Dict[str, ConfusionMatrix]
    norms: Dict[str, float]
    samples: int = 0

    @classmethod
    def empty(cls, heads: Sequence[Head]) -> "EpochMetrics":
        matrices = {head.name: ConfusionMatrix(head.block.subnet.num_outputs) for head in heads}
        zeros = {head.name: 0.0 for head in heads}
        return cls(zeros, matrices, dict(zeros))

    @classmethod
    def from_tree(cls, tree: Dict[str, Any], heads: Sequence[Head]) -> "EpochMetrics":
        """What `to_tree` gave for these heads; ConfsegError where it is of others."""
        try:
            counts = {head.name: np.array(tree["counts"][head.name], np.int64) for head in heads}
            sums = [{head.name: float(tree[key][head.name]) for head in heads} for key in ("losses", "norms")]
            found = cls(sums[0], {name: ConfusionMatrix.from_counts(c) for name, c in counts.items()}, *sums[1:])
            found.samples = tree["samples"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfsegError(f"no losses and counts of the heads that are trained: {error!r}") from error
        for head in heads:
            if found.matrices[head.name].num_classes != head.block.subnet.num_outputs:
                raise ConfsegError(f"{head.name}: counts of another number of classes")
        return found

    def to_tree(self) -> Dict[str, Any]:
        """As plain JSON-able data."""
        counts = {name: matrix.counts.tolist() for name, matrix in self.matrices.items()}
        return {"losses": self.losses, "counts": counts, "norms": self.norms, "samples": self.samples}

    def add(
        self,
        heads: Sequence[Head],
        batch: Batch,
        losses: np.ndarray,
        logits: Sequence[np.ndarray],
        norms: np.ndarray,
    ) -> Dict[str, ConfusionMatrix]:
        """Take in a batch, and what `training.step` made of it; returns its counts."""
        self.samples += len(batch.ids)
        counted = {}
        for head, loss, scores, norm in zip(heads, losses, logits, norms):
            self.losses[head.name] += float(loss.sum())
            if np.isfinite(norms).all():  # mixed precision's gradients may overflow
                self.norms[head.name] += float(norm)
            stride = -(-batch.labels.shape[1] // scores.shape[2])
            label = head.output_of_label[batch.labels[:, stride // 2 :: stride, stride // 2 :: stride]]
            height, width = label.shape[1:]
            counted[head.name] = ConfusionMatrix(head.block.subnet.num_outputs)
            counted[head.name].update(label, scores[:, :, :height, :width].argmax(axis=1))
            self.matrices[head.name] += counted[head.name]
        return counted

    def of_all(self, job: Job) -> "EpochMetrics":
        """The same over the images of all workers."""
        if job.count == 1:
            return self
        losses = job.total(np.array(list(self.losses.values()), np.float32))
        samples = job.total_counts(np.array(self.samples))
        found = {name: ConfusionMatrix.from_counts(job.total_counts(m.counts)) for name, m in self.matrices.items()}
        return EpochMetrics(dict(zip(self.losses, map(float, losses))), found, dict(self.norms), int(samples))

    def loss(self, name: str) -> float:
        return self.losses[name] / max(self.samples, 1)

    def pull(self, name: str) -> float:
        """A head's mean norm relative to the first head's; 0 where nothing pulls."""
        return self.norms[name] / max(next(iter(self.norms.values())), TINY)

    def summary(self) -> Dict[str, str]:
        """Mean over the heads of the loss, and of mIoU in percent."""
        loss = np.mean([self.loss(name) for name in self.losses])
        miou = 100 * np.nanmean([matrix.mean_iou() for matrix in self.matrices.values()])
        return {"loss": f"{loss:.3f}", "train mIoU": f"{miou:.1f}"}
