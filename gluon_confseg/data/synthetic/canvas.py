"""Drawing surface of the built-in data: picture, label and texture are painted together, lit and disturbed at the end.

Coordinates are (x, y) in units of the picture's height, x to the right and y down: a scene looks the same at any
resolution.
"""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

Color = Sequence[float]  # RGB, 0..255

# Texture codes: what the surface is made of. Classes share them on purpose.
SMOOTH, GRAIN, FOLIAGE, BRICK, FIBRE, ASPHALT = range(6)

_SHIFT = 4  # fractional bits of the coordinates that OpenCV gets
_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 18, endpoint=False)), np.sin(np.linspace(0, 2 * np.pi, 18, endpoint=False))], 1
)


def circle(x: float, y: float, rx: float, ry: Optional[float] = None) -> np.ndarray:
    """Outline of an upright ellipse, float64 (18, 2)."""
    return _CIRCLE * (rx, rx if ry is None else ry) + (x, y)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Outline of an upright rectangle, float64 (4, 2)."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def shade(color: Color, gain: float) -> Tuple[float, float, float]:
    """`color` times `gain`, clipped to 0..255."""
    return tuple(min(255.0, max(0.0, channel * gain)) for channel in color)


class Light(NamedTuple):
    """How a finished scene is lit and photographed."""

    gain: float = 1.0
    tint: Color = (1.0, 1.0, 1.0)
    gradient: Tuple[float, float] = (0.0, 0.0)  # change of the gain across the width and the height
    contrast: float = 1.0
    blur: float = 0.0  # standard deviation, in picture heights
    noise: float = 5.0  # standard deviation, in grey levels


class Canvas:
    """An RGB picture, its label, its texture codes and its objects' numbers (0 = no object), all (height, width).

    What is painted with a label gets the number `object` with it.
    """

    def __init__(self, height: int, width: int, background: int) -> None:
        self.height, self.width = height, width
        self.aspect = width / height
        self.image = np.zeros((height, width, 3), dtype=np.uint8)
        self.label = np.full((height, width), background, dtype=np.uint8)
        self.texture = np.zeros((height, width), dtype=np.uint8)
        self.objects = np.zeros((height, width), dtype=np.uint16)
        self.object = 0

    def _points(self, outline: np.ndarray) -> np.ndarray:
        scaled = np.asarray(outline) * (self.height << _SHIFT) - (
            1 << _SHIFT >> 1
        )  # pixel centres are at whole numbers
        return np.rint(scaled).astype(np.int32)

    def polygon(
        self,
        outline: np.ndarray,
        color: Optional[Color] = None,
        label: Optional[int] = None,
        texture: Optional[int] = None,
    ) -> None:
        """Fill an outline (N, 2); the layers whose value is None stay as they are."""
        points = [self._points(outline)]
        if color is not None:
            cv2.fillPoly(self.image, points, tuple(map(float, color)), shift=_SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, points, int(label), shift=_SHIFT)
            cv2.fillPoly(self.objects, points, self.object, shift=_SHIFT)
        if texture is not None:
            cv2.fillPoly(self.texture, points, int(texture), shift=_SHIFT)

    def details(self, outlines: Sequence[np.ndarray], color: Color) -> None:
        """Fill many outlines that do not overlap, in the picture only."""
        if len(outlines):
            points = self._points(np.concatenate(outlines))
            cv2.fillPoly(
                self.image,
                np.split(points, np.cumsum([len(outline) for outline in outlines])[:-1]),
                tuple(map(float, color)),
                shift=_SHIFT,
            )

    def stroke(
        self,
        path: np.ndarray,
        thickness: float,
        color: Optional[Color] = None,
        label: Optional[int] = None,
        texture: Optional[int] = None,
        least: float = 0.0,
    ) -> None:
        """Draw a polyline (N, 2) that is `thickness` wide, at least `least` (both in heights) and one pixel."""
        pixels = max(1, int(round(max(thickness, least) * self.height)))
        points = [self._points(path)]
        number = None if label is None else self.object
        layers: List[Tuple[np.ndarray, Any]] = [(self.image, color), (self.label, label), (self.texture, texture)]
        layers.append((self.objects, number))
        for layer, value in layers:
            if value is not None:
                cv2.polylines(
                    layer,
                    points,
                    False,
                    tuple(map(float, value)) if layer is self.image else int(value),
                    pixels,
                    cv2.LINE_8,
                    _SHIFT,
                )

    def vertical_gradient(self, top: Color, bottom: Color, y_end: float) -> None:
        """Fill the picture above `y_end` with a gradient."""
        rows = min(self.height, max(1, int(round(y_end * self.height))))
        ramp = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        colors = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(bottom, np.float32) * ramp
        self.image[:rows] = colors[:, None]

    def darken(self, outline: np.ndarray, gain: float) -> None:
        """Throw a shadow: multiply the picture inside the outline by `gain` (label and texture stay)."""
        points = self._points(outline)
        low = np.maximum(points.min(0) >> _SHIFT, 0)
        high = np.minimum((points.max(0) >> _SHIFT) + 2, (self.width, self.height))
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), dtype=np.uint8)
        cv2.fillPoly(mask, [points - (low << _SHIFT).astype(np.int32)], 1, shift=_SHIFT)
        region = self.image[low[1] : high[1], low[0] : high[0]]
        cv2.copyTo(cv2.convertScaleAbs(region, alpha=gain), mask, region)

    def photograph(self, textures: "Textures", light: Light, rng: np.random.Generator) -> np.ndarray:
        """Add surface texture, light, blur and sensor noise; returns the RGB picture, uint8 (height, width, 3)."""
        gain = 1.0 + np.take_along_axis(textures.crop(rng), self.texture[None].astype(np.intp), 0)[0]
        across = 1.0 + light.gradient[0] * np.linspace(-0.5, 0.5, self.width, dtype=np.float32)
        down = 1.0 + light.gradient[1] * np.linspace(-0.5, 0.5, self.height, dtype=np.float32)
        gain *= across * down[:, None] * np.float32(light.gain)
        picture = self.image.astype(np.float32)
        if light.contrast != 1.0:
            picture = 128 + (picture - 128) * np.float32(light.contrast)
        picture *= gain[..., None] * np.asarray(light.tint, np.float32)
        if light.blur * self.height > 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), light.blur * self.height)
        picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(light.noise)
        return np.clip(picture, 0, 255).astype(np.uint8)


class Textures:
    """A field of relative brightness per texture code, larger than a picture: each picture takes another part."""

    def __init__(self, height: int, width: int, seed: int) -> None:
        self.height, self.width = height, width
        rng = np.random.default_rng((seed, height, width))
        self._margin = (height // 2 + 1, width // 2 + 1)
        self._fields = np.stack(
            [
                np.zeros((height + self._margin[0], width + self._margin[1]), np.float32),
                0.06 * self._noise(rng, 0.004, 0.004) + 0.04 * self._noise(rng, 0.05, 0.05),
                0.20 * self._noise(rng, 0.012, 0.012) + 0.16 * self._noise(rng, 0.03, 0.035),
                0.05 * self._noise(rng, 0.005, 0.005) + 0.09 * self._courses(rng),
                0.13 * self._noise(rng, 0.003, 0.06) + 0.05 * self._noise(rng, 0.04, 0.04),
                0.07 * self._noise(rng, 0.005, 0.003) + 0.07 * self._noise(rng, 0.1, 0.03),
            ]
        )

    def _noise(self, rng: np.random.Generator, across: float, down: float) -> np.ndarray:
        """Smooth noise with unit variance whose features are about (`across`, `down`) heights in size."""
        shape = (self.height + self._margin[0], self.width + self._margin[1])
        cells = (
            max(4, int(0.5 * shape[0] / max(down * self.height, 0.5))),
            max(4, int(0.5 * shape[1] / max(across * self.height, 0.5))),
        )
        coarse = rng.standard_normal(cells, dtype=np.float32)
        field = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
        return (field - field.mean()) / field.std()

    def _courses(self, rng: np.random.Generator) -> np.ndarray:
        """Courses of stones: each stone has its own brightness."""
        shape = (self.height + self._margin[0], self.width + self._margin[1])
        stone = (max(2.0, 0.02 * self.height), max(3.0, 0.05 * self.height))
        rows = (np.arange(shape[0]) / stone[0]).astype(np.intp)
        columns = ((np.arange(shape[1])[None] + (rows[:, None] % 2) * stone[1] / 2) / stone[1]).astype(np.intp)
        stones = rng.standard_normal((rows.max() + 1, columns.max() + 1), dtype=np.float32)
        return stones[rows[:, None], columns]

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        """Fields of one picture, float32 (codes, height, width)."""
        top, left = (int(rng.integers(0, margin)) for margin in self._margin)
        return self._fields[:, top : top + self.height, left : left + self.width]
