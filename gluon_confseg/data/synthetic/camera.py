"""The camera on the street."""

from typing import NamedTuple, Sequence, Union

import numpy as np

Coordinates = Union[float, Sequence[float], np.ndarray]


class Camera(NamedTuple):
    """Pinhole camera above a flat street; world axes in metres: X right, Y up, Z ahead."""

    focal: float
    horizon: float
    center: float
    eye: float = 1.6

    def project(self, x: Coordinates, y: Coordinates, z: Coordinates) -> np.ndarray:
        """World coordinates (broadcast together, any shape S) to picture coordinates, float64 S + (2,)."""
        metre = self.focal / np.asarray(z, np.float64)
        across = self.center + metre * np.asarray(x)
        down = self.horizon + metre * (self.eye - np.asarray(y))
        points = np.empty((across + down).shape + (2,))
        points[..., 0], points[..., 1] = across, down
        return points
