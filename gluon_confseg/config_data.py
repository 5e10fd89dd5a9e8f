"""Settings of the images: which ones, and how training crops are taken from them."""

from typing import Any, Callable, Dict, Tuple

from pydantic import Field, field_validator, model_serializer
from typing_extensions import Literal

from .config_base import Section


class BuiltIn(Section):
    """The built-in synthetic data drawn where no data root is given. size = (height, width) in pixels."""

    train: int = Field(240, gt=0)
    val: int = Field(60, gt=0)
    size: Tuple[int, int] = (128, 256)
    seed: int = 0


class Data(Section):
    """Which images. `scale` is the working resolution relative to the files (0.5 = halved).

    Decoded training images stay in a run's memory up to `cache_megabytes`, and, up to `disk_cache_megabytes`, in the
    user's cache folder, which all runs share. `held_out`: this share of the training split, the end of its sorted ids,
    is not trained on and takes the place of `val_split`, so that settings can be tuned without a look at the latter.
    """

    name: Literal["cityscapes", "voc", "camvid", "folders"]
    train_split: str = "train"
    val_split: str = "val"
    held_out: float = Field(0.0, ge=0, lt=1)
    scale: float = Field(1.0, gt=0)
    cache_megabytes: int = Field(1024, ge=0)
    disk_cache_megabytes: int = Field(0, ge=0)
    workers: int = Field(2, gt=0)
    built_in: BuiltIn = BuiltIn()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[["Data"], Dict[str, Any]]) -> Dict[str, Any]:
        tree = handler(self)
        for key in ("disk_cache_megabytes", "held_out"):
            if not tree[key]:
                del tree[key]  # younger than committed runs, which could not be averaged with new ones
        return tree


class Augment(Section):
    """Training crops: scale jitter (relative to data.scale), crop = (height, width); mean and std of [0, 1] RGB."""

    scale: Tuple[float, float] = (0.75, 1.75)
    crop: Tuple[int, int] = (144, 192)
    flip: bool = True
    mean: Tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Tuple[float, float, float] = (0.229, 0.224, 0.225)

    @field_validator("scale")
    @classmethod
    def _range(cls, value: Tuple[float, float]) -> Tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("wants 0 < low <= high")
        return value
