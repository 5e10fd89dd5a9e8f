"""A run's network as one graph from image to scores or labels that runs without this package."""

from .exporting import CONTRACT_FILE, export
from .options import Int8, Options

__all__ = ["CONTRACT_FILE", "Int8", "Options", "export"]
