"""Vehicles on the street: side profiles that are extruded and projected."""

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from .camera import Camera
from .canvas import SMOOTH, Canvas, Color, circle, shade

GLASS = (52.0, 62.0, 72.0)
DARK = (32.0, 32.0, 36.0)


class Build(NamedTuple):
    """A vehicle's shape. The profile (fractions of length and height) runs from the rear over the roof."""

    length: Tuple[float, float]
    width: Tuple[float, float]
    height: Tuple[float, float]
    profile: Tuple[Tuple[float, float], ...]
    glass: Tuple[int, ...]  # profile edges that are windows across the vehicle
    windows: Tuple[Tuple[float, float, float, float], ...]  # on the side: u0, v0, u1, v1
    wheels: Tuple[float, ...]
    radius: float  # of a wheel, in metres
    stripe: float = 0.0  # probability of a coloured band along the side


def _row(
    count: int, start: float, end: float, low: float, high: float
) -> Tuple[Tuple[float, float, float, float], ...]:
    """A row of equal windows."""
    pitch = (end - start) / count
    return tuple((start + pitch * (i + 0.08), low, start + pitch * (i + 0.92), high) for i in range(count))


_SALOON = (
    (0, 0.14),
    (0, 0.5),
    (0.04, 0.62),
    (0.2, 0.97),
    (0.3, 1.0),
    (0.55, 1.0),
    (0.72, 0.64),
    (0.97, 0.54),
    (1.0, 0.4),
    (1.0, 0.14),
)
_VAN = ((0, 0.12), (0, 0.5), (0.03, 0.95), (0.1, 1.0), (0.66, 1.0), (0.82, 0.58), (0.98, 0.48), (1.0, 0.12))
_LORRY = (
    (0, 0.14),
    (0, 1.0),
    (0.74, 1.0),
    (0.745, 0.3),
    (0.765, 0.3),
    (0.77, 0.76),
    (0.8, 0.8),
    (0.97, 0.8),
    (1.0, 0.45),
    (1.0, 0.14),
)
_FLATBED = (
    (0, 0.14),
    (0, 0.6),
    (0.68, 0.6),
    (0.685, 0.28),
    (0.715, 0.28),
    (0.72, 0.95),
    (0.75, 1.0),
    (0.95, 1.0),
    (1.0, 0.55),
    (1.0, 0.14),
)
_COACH = ((0, 0.1), (0, 0.5), (0.005, 0.92), (0.02, 1.0), (0.98, 1.0), (0.995, 0.9), (1.0, 0.4), (1.0, 0.1))
_TRAM = (
    (0.01, 0.03),
    (0, 0.4),
    (0.04, 0.86),
    (0.07, 0.94),
    (0.3, 0.94),
    (0.32, 1.0),
    (0.5, 1.0),
    (0.52, 0.94),
    (0.93, 0.94),
    (0.96, 0.86),
    (1.0, 0.4),
    (0.99, 0.03),
)

BUILDS: Dict[str, Tuple[Build, ...]] = {
    "car": (
        Build(
            (3.9, 4.7),
            (1.75, 1.9),
            (1.42, 1.6),
            _SALOON,
            (2, 5),
            ((0.2, 0.64, 0.4, 0.92), (0.42, 0.64, 0.63, 0.92)),
            (0.18, 0.8),
            0.32,
        ),
        Build(
            (4.2, 5.0),
            (1.8, 2.0),
            (1.75, 2.2),
            _VAN,
            (1, 4),
            ((0.08, 0.58, 0.4, 0.9), (0.43, 0.58, 0.7, 0.9)),
            (0.18, 0.82),
            0.34,
        ),
    ),
    "truck": (
        Build((6.5, 9.5), (2.2, 2.6), (2.9, 3.6), _LORRY, (7,), ((0.8, 0.5, 0.93, 0.72),), (0.1, 0.24, 0.87), 0.5, 0.4),
        Build((5.5, 7.0), (2.0, 2.3), (2.3, 2.7), _FLATBED, (7,), ((0.76, 0.6, 0.93, 0.9),), (0.15, 0.84), 0.42, 0.1),
    ),
    "bus": (
        Build(
            (9.0, 12.0), (2.4, 2.6), (2.9, 3.3), _COACH, (1, 5), _row(7, 0.02, 0.98, 0.45, 0.84), (0.22, 0.8), 0.48, 0.6
        ),
    ),
    "train": (
        Build(
            (14.0, 22.0),
            (2.4, 2.7),
            (3.5, 3.9),
            _TRAM,
            (1, 9),
            _row(5, 0.06, 0.48, 0.42, 0.76) + _row(5, 0.52, 0.94, 0.42, 0.76),
            (),
            0.3,
            0.7,
        ),
    ),
    "caravan": (
        Build(
            (4.5, 6.0),
            (2.1, 2.3),
            (2.3, 2.6),
            _COACH,
            (1,),
            ((0.2, 0.5, 0.45, 0.8), (0.6, 0.5, 0.8, 0.8)),
            (0.5,),
            0.32,
            0.8,
        ),
    ),
}

# All vehicles draw their paint from one table; the weights lean: white lorries, yellow and red buses, green trams.
PAINTS = np.array(
    [
        (205, 205, 200),
        (150, 153, 158),
        (60, 62, 66),
        (150, 40, 38),
        (48, 70, 125),
        (60, 105, 75),
        (195, 160, 55),
        (120, 105, 90),
    ],
    dtype=np.float64,
)
_LEANING = {
    "car": (2, 4, 5, 2, 2, 0.7, 0.5, 1),
    "truck": (4, 2, 1, 1, 2.5, 0.7, 1, 3),
    "bus": (1, 0.7, 0.2, 3, 1.5, 0.7, 6, 0.3),
    "train": (4, 1, 0.2, 1.5, 1.5, 5, 0.7, 0.2),
    "caravan": (6, 1, 0, 0, 0, 0, 0.5, 0.5),
}


def vehicle(
    canvas: Canvas, camera: Camera, kind: str, label: int, x: float, z: float, rng: np.random.Generator, *, heading: str
) -> None:
    """Draw a vehicle whose nearest end is at depth `z`; `heading` is "away", "towards" or "across"."""
    build = BUILDS[kind][rng.integers(len(BUILDS[kind]))]
    length, width, height = (rng.uniform(*span) for span in (build.length, build.width, build.height))
    weights = np.asarray(_LEANING[kind], np.float64)
    paint = np.clip(
        PAINTS[rng.choice(len(PAINTS), p=weights / weights.sum())] * rng.uniform(0.8, 1.15) + rng.normal(0, 8, 3),
        5,
        250,
    )
    band = PAINTS[rng.integers(len(PAINTS))] if rng.random() < build.stripe else None
    flipped = heading == "towards" or (heading == "across" and rng.random() < 0.5)
    profile = np.array(build.profile)
    if heading == "across":
        sign = -1.0 if flipped else 1.0

        def side(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return camera.project(x + sign * (u - 0.5) * length, v * height, z)

    else:
        near = 1.0 if flipped else 0.0
        flank = x + (width / 2 if x < 0 else -width / 2)

        def side(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return camera.project(flank, v * height, z + np.abs(u - near) * length)

        canvas.darken(
            camera.project(
                [x - width * 0.55, x + width * 0.55, x + width * 0.55, x - width * 0.55],
                0,
                [z, z, z + length, z + length],
            ),
            0.45,
        )
        _extrude(canvas, camera, build, paint, profile, (x, z), (length, width, height), flipped, label)
    _flank(canvas, build, paint, band, side, profile, length, height, label)


def _extrude(
    canvas: Canvas,
    camera: Camera,
    build: Build,
    paint: Color,
    profile: np.ndarray,
    place: Tuple[float, float],
    size: Tuple[float, float, float],
    flipped: bool,
    label: int,
) -> None:
    """Draw the surfaces that run across the vehicle, far to near."""
    (x, z), (length, width, height) = place, size
    depth = z + np.abs(profile[:, 0] - (1.0 if flipped else 0.0)) * length
    edges = range(len(profile) - 1) if flipped else range(len(profile) - 2, -1, -1)
    for edge in edges:
        z0, z1, y0, y1 = depth[edge], depth[edge + 1], profile[edge, 1] * height, profile[edge + 1, 1] * height
        level = abs(y1 - y0) < 0.5 * abs(z1 - z0)
        canvas.polygon(
            camera.project(
                [x - width / 2, x + width / 2, x + width / 2, x - width / 2], [y0, y0, y1, y1], [z0, z0, z1, z1]
            ),
            shade(paint, 1.1 if level else 0.85),
            label,
            SMOOTH,
        )
        if edge in build.glass:
            inner = width * 0.42
            low, high = y0 + 0.12 * (y1 - y0), y0 + 0.9 * (y1 - y0)
            canvas.polygon(
                camera.project([x - inner, x + inner, x + inner, x - inner], [low, low, high, high], [z0, z0, z1, z1]),
                GLASS,
            )
    foot = profile[0, 1] * height
    light = (230, 220, 180) if flipped else (170, 30, 25)
    for sign in (-1, 1):
        left, right = sorted((x + sign * width * 0.3, x + sign * width * 0.47))
        canvas.polygon(
            camera.project([left, right, right, left], [foot + 0.35, foot + 0.35, foot + 0.6, foot + 0.6], z), light
        )
        canvas.polygon(
            camera.project([left, right, right, left], [0, 0, foot + 0.1, foot + 0.1], z), DARK, label, SMOOTH
        )
    canvas.polygon(
        camera.project(
            [x - 0.26, x + 0.26, x + 0.26, x - 0.26], [foot + 0.15, foot + 0.15, foot + 0.32, foot + 0.32], z
        ),
        (215, 215, 205),
    )


def _flank(
    canvas: Canvas,
    build: Build,
    paint: Color,
    band: Optional[np.ndarray],
    side: Callable[[np.ndarray, np.ndarray], np.ndarray],
    profile: np.ndarray,
    length: float,
    height: float,
    label: int,
) -> None:
    """Draw the side: body, band, windows, wheels."""
    canvas.polygon(side(profile[:, 0], profile[:, 1]), shade(paint, 0.95), label, SMOOTH)
    if band is not None:
        canvas.polygon(side(np.array([0.01, 0.99, 0.99, 0.01]), np.array([0.2, 0.2, 0.38, 0.38])), band)
    for u0, v0, u1, v1 in build.windows:
        canvas.polygon(side(np.array([u0, u1, u1, u0]), np.array([v0, v0, v1, v1])), GLASS)
    for u in build.wheels:
        rim = circle(u, build.radius / height, build.radius / length, build.radius / height)
        hub = circle(u, build.radius / height, build.radius / length / 2, build.radius / height / 2)
        canvas.polygon(side(rim[:, 0], rim[:, 1]), DARK, label, SMOOTH)
        canvas.polygon(side(hub[:, 0], hub[:, 1]), (120, 120, 122))
