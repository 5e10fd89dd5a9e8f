"""The built-in data: drawn from a seed, in the layouts, file names and ids of Cityscapes, PASCAL VOC 2012 and CamVid.

ensure("cityscapes", "cache/cityscapes", train=300, val=60, size=(128, 256), seed=0) -> Path("cache/cityscapes")
"""

from .dataset import GENERATOR_VERSION, KINDS, ensure

__all__ = ["GENERATOR_VERSION", "KINDS", "ensure"]
