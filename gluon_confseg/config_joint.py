"""Settings of joint trainings: encoder and heads trained together, a variant beside the paper's frozen encoder."""

import re
from typing import Any, Dict, Mapping, Optional, Sequence

from pydantic import Field, model_validator

from .config_base import Section, Spaces
from .config_cells import Cell
from .config_losses import Loss
from .config_schedules import Schedule

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # part of the names of files


class Joint(Section):
    """Encoder, subnet 0 and other heads trained together, all from where the first stage starts.

    `subnet0`, `subnets`: names in `losses:` of subnet 0 and of the other heads (null: there are none); `spaces`: what
    these tell apart, as for a cell. The loss of each other head counts `weight` times that of subnet 0. Losses that
    take their weights from a confusion matrix have a moving one: the exponential average, by `decay` an update, of
    subnet 0's on the training batches. The first `plain_epochs` are of plain cross-entropy. `schedule`: what differs
    from `baseline:`; null: nothing.

    `pull_like` names another joint training: in each epoch the gradient that head m sends into the encoder is scaled to
    the norm, relative to subnet 0's, that head m had there in that epoch (mean norm by mean norm).
    """

    subnet0: str
    subnets: Optional[str] = None
    spaces: Spaces = "groups"
    weight: float = Field(0.5, gt=0)
    plain_epochs: int = Field(10, ge=1)
    decay: float = Field(0.98, ge=0, lt=1)
    pull_like: Optional[str] = None
    schedule: Optional[Schedule] = None

    @model_validator(mode="after")
    def _of_subnets(self) -> "Joint":
        if self.subnets is None and (self.spaces != "groups" or self.pull_like):
            raise ValueError("spaces and pull_like are about the heads beside subnet 0; name their loss in subnets")
        return self


def fill(tree: Any) -> Any:
    """A tree of settings in which what joint trainings and their cells leave open is filled in; others as they are.

    A schedule gets what it does not name from `baseline:`, a cell the heads of its training, all of them, or, with
    `subnets: null`, subnet 0 alone.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("joint"), dict):
        return tree
    joints = {name: _with_whole_schedule(joint, tree.get("baseline")) for name, joint in tree["joint"].items()}
    filled = {**tree, "joint": joints}
    if isinstance(tree.get("cells"), (list, tuple)):
        filled["cells"] = [_with_heads(cell, joints) for cell in tree["cells"]]
    return filled


def _with_whole_schedule(joint: Any, baseline: Any) -> Any:
    if not isinstance(joint, dict) or not isinstance(joint.get("schedule"), dict) or not isinstance(baseline, dict):
        return joint
    return {**joint, "schedule": {**baseline, **joint["schedule"]}}


def _with_heads(cell: Any, joints: Dict[str, Any]) -> Any:
    joint = joints.get(cell["joint"]) if isinstance(cell, dict) and isinstance(cell.get("joint"), str) else None
    if not isinstance(joint, dict) or "subnet0" not in joint:
        return cell
    filled = {"subnet0": joint["subnet0"], "subnets": joint.get("subnets"), **cell}
    if filled["subnets"] is not None:
        filled.setdefault("spaces", joint.get("spaces", "groups"))
    return filled


def check(joints: Mapping[str, Joint], losses: Mapping[str, Loss], baseline: Schedule, cells: Sequence[Cell]) -> None:
    """Raise ValueError, naming the key, where joint trainings do not fit together or their cells do not fit them."""
    earlier: Dict[str, Joint] = {}
    for name, joint in joints.items():
        where = f"joint.{name}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{where}: the name is part of file names; use letters, digits, - and _")
        _check_losses(where, joint, losses, (joint.schedule or baseline).epochs)
        if joint.pull_like is not None:
            _check_pull(where, joint, earlier, baseline)
        earlier[name] = joint
    for cell in cells:
        if cell.joint is not None:
            _check_cell(cell, joints)


def _check_losses(where: str, joint: Joint, losses: Mapping[str, Loss], epochs: int) -> None:
    names = [loss for loss in (joint.subnet0, joint.subnets) if loss is not None]
    for loss in names:
        if loss not in losses:
            raise ValueError(f"{where}: there is no loss {loss!r}; losses: has {', '.join(losses)}")
        if losses[loss].counted_on is not None:
            raise ValueError(f"{where}: the loss {loss!r} has counted_on; here its matrix is of the training batches")
    if epochs == 0:
        raise ValueError(f"{where}.schedule.epochs: 0 trains nothing")
    if epochs <= joint.plain_epochs and any(losses[loss].kind != "cross_entropy" for loss in names):
        raise ValueError(f"{where}.plain_epochs: {joint.plain_epochs} leaves its losses none of the {epochs} epochs")


def _check_pull(where: str, joint: Joint, earlier: Mapping[str, Joint], baseline: Schedule) -> None:
    like = earlier.get(joint.pull_like)
    if like is None or like.subnets is None:
        known = ", ".join(name for name, other in earlier.items() if other.subnets is not None) or "none"
        raise ValueError(
            f"{where}.pull_like: {joint.pull_like!r} is no joint training before it that has subnets; there is {known}"
        )
    epochs, wanted = (joint.schedule or baseline).epochs, (like.schedule or baseline).epochs
    if epochs != wanted:
        raise ValueError(f"{where}.pull_like: {joint.pull_like} has {wanted} epochs, this {epochs}; make them equal")


def _check_cell(cell: Cell, joints: Mapping[str, Joint]) -> None:
    joint = joints.get(cell.joint)
    if joint is None:
        known = ", ".join(joints) or "none"
        raise ValueError(f"cells: {cell.key} uses the joint training {cell.joint!r}; joint: has {known}")
    if cell.role == "baseline":
        raise ValueError(f"cells: {cell.key} is the baseline, the head of the first stage; it has no joint training")
    own = (joint.subnet0, joint.subnets, joint.spaces)
    alone = (joint.subnet0, None, "groups")
    if (cell.subnet0, cell.subnets, cell.spaces) not in (own, alone) or cell.shape is not None:
        raise ValueError(
            f"cells: {cell.key} has the heads of the joint training {cell.joint!r}; leave out subnet0, subnets, spaces "
            "and shape, or write subnets: null for subnet 0 alone"
        )
