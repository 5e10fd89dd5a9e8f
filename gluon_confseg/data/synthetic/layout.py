"""A street while it is laid out: its measures, what stands where, and what is painted when."""

from typing import Callable, Dict, List, Tuple

import numpy as np

from ...labels import CITYSCAPES, IGNORE_LABEL
from .camera import Camera
from .canvas import Canvas

# Raw ids: those of the trained classes from the class table, and the unlabelled areas that the scenes have.
ID: Dict[str, int] = {
    CITYSCAPES.classes[train]: raw for raw, train in CITYSCAPES.raw_ids.items() if train != IGNORE_LABEL
}
EGO_VEHICLE, RECTIFICATION_BORDER, STATIC, PARKING, RAIL_TRACK, CARAVAN = 1, 2, 4, 9, 10, 29
COUNTED = range(24, 34)  # ids of people and vehicles, which Cityscapes annotates one by one; caravans too

# Masonry, shared by buildings, walls, closed fences and the end of the street.
MASONRY = np.array(
    [(150, 128, 108), (128, 110, 100), (166, 156, 140), (118, 116, 114), (146, 104, 86), (182, 170, 146), (98, 92, 88)],
    dtype=np.float64,
)
METAL = np.array([(96, 98, 100), (70, 74, 76), (132, 132, 130), (84, 96, 84)], dtype=np.float64)
CONCRETE = np.array([(176, 178, 172), (158, 162, 160), (192, 188, 176)], dtype=np.float64)
BOARDS = np.array([(136, 92, 58), (116, 84, 56), (150, 112, 76)], dtype=np.float64)
FAR = 75.0

Deferred = List[Tuple[float, Callable[[], None]]]  # depth and how to draw: painted far to near


class Street:
    """One scene while it is laid out; every random choice comes from `rng`."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator) -> None:
        self.canvas, self.rng = canvas, rng
        self.camera = Camera(
            rng.uniform(1.05, 1.35),
            rng.uniform(0.38, 0.5),
            canvas.aspect * rng.uniform(0.35, 0.65),
            rng.uniform(1.4, 1.9),
        )
        self.half = rng.uniform(3.1, 5.0)  # of the carriageway, metres
        self.pavement = rng.uniform(1.8, 3.8)
        self.deferred: Deferred = []
        self.taken: List[Tuple[float, float, float]] = []  # x, nearest z, farthest z of what stands on the ground

    def later(self, depth: float, paint: Callable[[], None]) -> None:
        self.deferred.append((depth, paint))

    def color(self, table: np.ndarray, spread: float = 10.0) -> np.ndarray:
        base = table[self.rng.integers(len(table))]
        return np.clip(base * self.rng.uniform(0.8, 1.15) + self.rng.normal(0, spread, 3), 5, 250)

    def place(self, x: float, length: float, low: float, high: float, gap: float = 1.6) -> float:
        """Depth for an object of that length at `x` where nothing stands yet, or 0 when there is no room."""
        for _ in range(6):
            z = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
            if all(
                abs(x - other) > gap or z > end + 0.6 or z + length < start - 0.6 for other, start, end in self.taken
            ):
                self.taken.append((x, z, z + length))
                return z
        return 0.0

    def paint(self) -> None:
        """Paint what was deferred, far to near; each is an object of its own."""
        for number, (_, draw) in enumerate(sorted(self.deferred, key=lambda item: -item[0]), 1):
            self.canvas.object = number
            draw()
        self.canvas.object = 0
