"""Settings of the losses: their kinds, and what each kind can be told."""

from typing import Any, Callable, Dict, Optional

from pydantic import Field, model_serializer, model_validator
from typing_extensions import Literal

from .config_base import Section

LOSS_SETTINGS = {  # the settings that each kind of loss has
    "cross_entropy": (),
    "recall_weighted": ("lam",),
    "confusion": ("lam", "diagonal"),
    "inverse_frequency": ("max_ratio",),
    "median_frequency": ("max_ratio",),
    "focal": ("gamma",),
    "ohem": ("threshold", "min_kept"),
    "loss_max_pooling": ("p", "support"),
    "logit_adjusted": ("tau",),
}
LOSS_OPTIONS = ("stride", "counted_on")  # those that every kind has; absent where they are not given


class Loss(Section):
    """`cross_entropy`, optionally weighted by w_i = c_ii + lam (1 - c_ii), the paper's `confusion` loss, or a rival.

    The rivals and their settings are those of nn/class_weights.py and nn/competing_losses.py, with published defaults.
    `stride` replaces the schedule's `loss_stride`; `counted_on`, the split of the confusion matrix that the loss takes
    its weights from, replaces `confusion_images`.
    """

    kind: Literal[
        "cross_entropy",
        "recall_weighted",
        "confusion",
        "inverse_frequency",
        "median_frequency",
        "focal",
        "ohem",
        "loss_max_pooling",
        "logit_adjusted",
    ]
    lam: float = Field(5.0, ge=0)
    diagonal: Literal["confusion", "one"] = "confusion"
    max_ratio: float = Field(50.0, ge=1)
    gamma: float = Field(2.0, ge=0)
    threshold: float = Field(0.7, gt=0, le=1)
    min_kept: float = Field(1 / 16, gt=0, le=1)
    p: float = Field(1.7, ge=1.1)
    support: float = Field(0.25, gt=0, le=1)
    tau: float = Field(1.0, ge=0)
    stride: Optional[int] = Field(None, gt=0)
    counted_on: Optional[Literal["train", "val"]] = None

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> "Loss":
        own = LOSS_SETTINGS[self.kind]
        for key, field in type(self).model_fields.items():
            # the default is let through: a run's config.json names lam and diagonal for every kind
            if key not in ("kind", *own, *LOSS_OPTIONS) and getattr(self, key) != field.default:
                raise ValueError(f"{self.kind} has no setting {key!r}; it has {', '.join(own) or 'none'}")
        return self

    @model_serializer(mode="wrap")
    def _without_those_of_other_kinds(self, handler: Callable[["Loss"], Dict[str, Any]]) -> Dict[str, Any]:
        # but lam and diagonal, older than the rivals, or the stages of finished runs would count as changed
        kept = ["kind", "lam", "diagonal", *LOSS_SETTINGS[self.kind]]
        kept += [key for key in LOSS_OPTIONS if getattr(self, key) is not None]
        return {key: value for key, value in handler(self).items() if key in kept}
