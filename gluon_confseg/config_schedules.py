"""Settings of trainings: how long, in what batches, at what rates."""

from typing import Optional

from pydantic import Field

from .config_base import Section


class Schedule(Section):
    """SGD: linear warm-up (in updates), linear decay to 0. The loss takes one pixel in loss_stride x loss_stride.

    `epochs: 0` in the first stage takes encoder and subnet 0 as their weights' files hold them. `batch_size` is that of
    an update, over all devices; `images_per_pass` is how many of its images a device takes at a time (null: its whole
    share), which needs less memory: gradients add up to those of the batch.
    """

    epochs: int = Field(80, ge=0)
    batch_size: int = Field(8, gt=0)
    images_per_pass: Optional[int] = Field(None, gt=0)
    learning_rate: float = Field(0.03, gt=0)
    warmup: int = Field(100, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    loss_stride: int = Field(1, gt=0)
    max_updates_per_epoch: Optional[int] = Field(None, gt=0)


class SubnetSchedule(Schedule):
    """`finetune_learning_rate` is for heads that start from the baseline's subnet 0; the others start at random."""

    epochs: int = Field(25, gt=0)
    finetune_learning_rate: float = Field(0.01, gt=0)
