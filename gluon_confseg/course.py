"""How a training goes on beside its steps: what becomes of the heads from epoch to epoch and update to update."""

from typing import Any, Dict, Sequence

from .confusion import ConfusionMatrix
from .epoch_metrics import EpochMetrics
from .heads import Head


class Course:
    """Here the heads stay as they are; see joint.py for another one."""

    def __init__(self, heads: Sequence[Head]):
        self._heads = heads

    def heads(self, epoch: int) -> Sequence[Head]:
        """Those of an epoch (from 0), with the same names, subnets and trainers in each."""
        return self._heads

    def after_update(self, epoch: int, counted: Dict[str, ConfusionMatrix]) -> None:
        """`counted`: what each head made of the batch."""

    def after_epoch(self, metrics: EpochMetrics) -> None:
        """Before the checkpoint."""

    def state(self) -> Dict[str, Any]:
        """What a checkpoint must hold of it, for JSON."""
        return {}

    def restore(self, state: Dict[str, Any]) -> None:
        """Continue from what `state` gave."""
