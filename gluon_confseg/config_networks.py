"""Settings of the networks: the encoder, and what subnets are like."""

from typing import Optional, Tuple

from pydantic import Field, model_validator
from typing_extensions import Literal

from .config_base import Section


class Encoder(Section):
    """`weights`: null (random), "imagenet" (GluonCV's model store) or a file: see nn/weights.py and nn/resnet38.py.

    `name: gluoncv` with `model`, one of GluonCV's segmentation models: its encoder, and its head as subnet 0, whose
    weights (a .params file of the model, or "pretrained": the model store's) fill both: see nn/gluoncv_models.py. A
    network of your own, by --plugin: see nn/encoders.py.
    """

    name: str = "small"
    model: Optional[str] = None
    weights: Optional[str] = None
    frozen_batchnorm: bool = False

    @model_validator(mode="after")
    def _model(self) -> "Encoder":
        if (self.name == "gluoncv") != (self.model is not None):
            raise ValueError(
                "model names a segmentation model of GluonCV's; it goes with name: gluoncv, and only there"
            )
        return self


class Subnet(Section):
    """Shape of a subnet: METHOD.md section 1; `stages` are the encoder stages whose features are concatenated."""

    hidden: int = Field(1, ge=0)
    channels: int = Field(512, gt=0)
    kernel: int = Field(3, gt=0)
    dilation: int = Field(12, gt=0)
    norm: Literal["none", "batch"] = "none"
    stages: Tuple[int, ...] = (-1,)


class Subnet0(Subnet):
    """`weights`: null (random), a released ResNet-38 checkpoint, or a Gluon .params file of this head."""

    weights: Optional[str] = None
