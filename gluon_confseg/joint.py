"""Joint training: encoder, subnet 0 and other heads together, with a confusion matrix that follows subnet 0."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from pydantic import NonNegativeFloat, TypeAdapter

from .building import (
    make_trunk,
    new_encoder,
    new_head,
    save_parameters,
    seen_by,
    with_loss,
)
from .config_base import in_turn
from .config_joint import Joint
from .config_losses import Loss
from .confusion import ConfusionMatrix
from .course import Course
from .epoch_metrics import EpochMetrics
from .errors import ConfsegError
from .files import read_json, write_json
from .fitting import fit_heads
from .groups import OutputSpaces
from .heads import Head
from .loss_weights import loss_weights, make_loss
from .moving_confusion import MovingConfusion
from .nn import PixelCrossEntropy
from .run import HeadName, Run, encoder_file, heads_beside_subnet0, joint_stage, read_groups, read_spaces

_log = logging.getLogger(__name__)


def train_joint(run: Run, name: str) -> List[str]:
    """The stage of the joint training `name`: its files are an encoder, its heads, and their pulls epoch by epoch."""
    joint, stage = run.config.joint[name], joint_stage(name)
    if run.job.count > 1:
        raise ConfsegError(f"joint.{name}: a joint training runs in one process; start it without --kvstore")
    schedule = joint.schedule or run.config.baseline
    spaces = {} if joint.subnets is None else read_spaces(run)
    encoder = new_encoder(run)
    losses, heads, names = [], [], joint_heads(run, name)
    for head in names:
        settings = run.config.losses[head.loss]
        # a matrix without errors, whose weights nothing uses: the first epochs are plain, then come the moving one's
        matrix = seen_by(head, spaces, ConfusionMatrix.from_counts(np.eye(run.num_classes, dtype=int)))
        made = new_head(run, head, encoder, make_loss(settings, matrix), schedule, spaces)
        heads.append(replace(made, weight=joint.weight if head.subnet else 1.0))
        losses.append(settings)
    plain = [with_loss(run, head, PixelCrossEntropy(head.block.subnet.num_outputs)) for head in heads]
    course = JointCourse(joint, names, heads, plain, losses, spaces, _wanted_pulls(run, joint))
    fit_heads(run, make_trunk(run, encoder, schedule), heads, schedule, stage, course=course)
    for head, pull in zip(heads[1:], np.mean(course.pulls, axis=0)[1:]):
        _log.info("%s: the gradient of %s into the encoder had %.3f of the norm of subnet 0's", stage, head.name, pull)
    write_json(run.folder / _pulls_file(name), course.pulls)
    files = [save_parameters(run, head.block.subnet, name.file) for head, name in zip(heads, names)]
    return [save_parameters(run, encoder, encoder_file(name)), *files, _pulls_file(name)]


def joint_heads(run: Run, name: str) -> List[HeadName]:
    """The heads of a joint training, subnet 0 first."""
    joint = run.config.joint[name]
    count = 0 if joint.subnets is None else len(read_groups(run))
    others = heads_beside_subnet0(count, in_turn(joint.subnets), joint.spaces, joint=name)
    return [HeadName(0, joint.subnet0, joint=name), *others]


def _pulls_file(name: str) -> str:
    return f"{joint_stage(name)}.pulls.json"


def _wanted_pulls(run: Run, joint: Joint) -> Optional[List[List[float]]]:
    if joint.pull_like is None:
        return None
    epochs = (joint.schedule or run.config.baseline).epochs
    return _read_pulls(run.folder / _pulls_file(joint.pull_like), epochs, 1 + len(read_groups(run)))


def _read_pulls(path: Path, epochs: int, heads: int) -> List[List[float]]:
    try:
        return _checked_pulls(read_json(path), epochs, heads)
    except ValueError:
        raise ConfsegError(f"{path} does not hold {epochs} x {heads} norms; delete it and run again") from None


def _checked_pulls(tree: Any, epochs: int, heads: int) -> List[List[float]]:
    """Of JSON, the pulls of so many heads in so many epochs; ValueError where they are none."""
    pulls = TypeAdapter(List[List[NonNegativeFloat]]).validate_python(tree, strict=True)
    if len(pulls) != epochs or any(len(each) != heads for each in pulls):
        raise ValueError(f"not {epochs} x {heads} norms")
    return pulls


class JointCourse(Course):
    """Plain cross-entropy at first; then losses that take their weights from a matrix have the moving one's.

    Parameters
    ----------
    joint : its settings
    names, heads, plain, losses : per head: its name, it with its loss, it with plain cross-entropy, its loss's settings
    spaces : what the heads tell apart
    wanted : per epoch and head, the pull that the head is to have; None leaves them as they are

    `pulls` has, per epoch and head, `EpochMetrics.pull`.
    """

    def __init__(
        self,
        joint: Joint,
        names: Sequence[HeadName],
        heads: Sequence[Head],
        plain: Sequence[Head],
        losses: Sequence[Loss],
        spaces: OutputSpaces,
        wanted: Optional[Sequence[Sequence[float]]] = None,
    ):
        super().__init__(heads)
        self._names, self._heads, self._plain, self._losses = names, heads, plain, losses
        self._plain_epochs, self._spaces, self._wanted = joint.plain_epochs, spaces, wanted
        self._moving = MovingConfusion(heads[0].block.subnet.num_outputs, joint.decay)
        self.pulls: List[List[float]] = []

    def heads(self, epoch: int) -> Sequence[Head]:
        """With plain cross-entropy, or with losses that have the weights of the matrix as it is now."""
        if epoch >= self._plain_epochs:
            self._set_weights()
        heads = self._plain if epoch < self._plain_epochs else self._heads
        if self._wanted is None:
            return heads
        return [heads[0], *(replace(head, pull=pull) for head, pull in zip(heads[1:], self._wanted[epoch][1:]))]

    def after_update(self, epoch: int, counted: Dict[str, ConfusionMatrix]) -> None:
        """Subnet 0's counts move the matrix, and this the losses."""
        self._moving.update(counted[self._heads[0].name])
        if epoch >= self._plain_epochs:
            self._set_weights()

    def after_epoch(self, metrics: EpochMetrics) -> None:
        """Keep the pulls."""
        self.pulls.append([metrics.pull(head.name) for head in self._heads])

    def state(self) -> Dict[str, Any]:
        return {"confusion": self._moving.state(), "pulls": self.pulls}

    def restore(self, state: Dict[str, Any]) -> None:
        """Continue from what `state` gave; ConfsegError where it is of another training."""
        try:
            self._moving.restore(state["confusion"])
            self.pulls = _checked_pulls(state["pulls"], len(state["pulls"]), len(self._heads))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfsegError(f"no moving confusion matrix and pulls: {error!r}") from error

    def _set_weights(self) -> None:
        matrix = self._moving.matrix()
        for name, head, settings in zip(self._names, self._heads, self._losses):
            weights = loss_weights(settings, seen_by(name, self._spaces, matrix))
            if weights is not None:
                head.block.loss.set_weights(weights)
