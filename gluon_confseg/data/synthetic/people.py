"""People on the street, on foot and on two wheels, as flat figures whose coordinates are metres."""

from typing import Dict, List, Sequence, Tuple

import numpy as np

from .camera import Camera
from .canvas import FIBRE, GRAIN, Canvas, Color
from .parts import Part, draw, fill, line, oval, ring
from .vehicles import DARK, PAINTS

CLOTHES = np.array(
    [
        (40, 42, 52),
        (72, 78, 96),
        (120, 112, 104),
        (52, 66, 104),
        (132, 46, 48),
        (68, 92, 70),
        (188, 184, 178),
        (176, 148, 64),
    ],
    dtype=np.float64,
)


def _dress(rng: np.random.Generator) -> Dict[str, Color]:
    top, bottom = (np.clip(CLOTHES[rng.integers(len(CLOTHES))] + rng.normal(0, 12, 3), 5, 250) for _ in range(2))
    skin = np.array((205, 160, 132)) * rng.uniform(0.5, 1.1)
    hair = np.array((70, 54, 44)) * rng.uniform(0.4, 2.0)
    metal = PAINTS[rng.integers(len(PAINTS))] * rng.uniform(0.5, 0.9)
    return {"top": top, "legs": bottom, "skin": skin, "hair": hair, "metal": metal, "dark": DARK, "lamp": (185, 45, 35)}


def _walker(rng: np.random.Generator) -> List[Part]:
    stride, swing = rng.uniform(0.04, 0.26), rng.uniform(0.05, 0.25)
    broad = rng.uniform(0.18, 0.25)
    return [
        line("legs", 0.17, -0.06, 0.85, -stride, 0.05),
        line("legs", 0.17, 0.06, 0.85, stride, 0.05),
        line("top", 0.13, -broad, 1.38, -broad - swing * 0.5, 0.95),
        line("top", 0.13, broad, 1.38, broad + swing * 0.5, 0.95),
        fill("top", -broad, 1.45, broad, 1.45, broad * 0.85, 0.8, -broad * 0.85, 0.8),
        oval("skin", 0, 1.62, 0.11, 0.14),
        oval("hair", 0, 1.69, 0.115, 0.08),
    ]


def _bicycle(side: bool) -> List[Part]:
    if not side:
        return [
            oval(None, 0, 0.4, 0.16, 0.42),
            line("dark", 0.09, 0, 0.02, 0, 0.68),
            line("metal", 0.08, -0.28, 1.0, 0.28, 1.0),
            line("metal", 0.08, 0, 0.6, 0, 1.0),
        ]
    return [
        oval(None, -0.52, 0.35, 0.36, 0.36),
        oval(None, 0.52, 0.35, 0.36, 0.36),
        fill(None, -0.5, 0.35, 0, 0.3, 0.5, 0.4, 0.4, 0.9, -0.2, 0.9),
        ring("dark", 0.07, -0.52, 0.35, 0.33),
        ring("dark", 0.07, 0.52, 0.35, 0.33),
        line("metal", 0.07, -0.52, 0.35, -0.16, 0.75, 0.36, 0.78, 0.0, 0.3, -0.52, 0.35),
        line("metal", 0.07, -0.2, 0.92, 0.0, 0.3),
        line("metal", 0.07, 0.52, 0.35, 0.38, 1.0, 0.26, 1.02),
        line("dark", 0.09, -0.3, 0.93, -0.08, 0.93),
    ]


def _motorcycle(side: bool) -> List[Part]:
    if not side:
        return [
            oval("dark", 0, 0.35, 0.13, 0.36),
            fill("metal", -0.24, 0.4, 0.24, 0.4, 0.3, 0.9, -0.3, 0.9),
            line("dark", 0.08, -0.42, 1.08, 0.42, 1.08),
            oval("lamp", 0, 0.72, 0.1, 0.07),
        ]
    return [
        oval("dark", -0.66, 0.32, 0.33, 0.33),
        oval("dark", 0.7, 0.32, 0.33, 0.33),
        oval("metal", -0.66, 0.32, 0.13, 0.13),
        oval("metal", 0.7, 0.32, 0.13, 0.13),
        fill("dark", -0.5, 0.3, 0.35, 0.25, 0.42, 0.6, -0.4, 0.66),
        fill("metal", -0.95, 0.72, -0.3, 0.62, 0.5, 0.6, 0.52, 0.95, 0.1, 0.98, -0.05, 0.8, -0.85, 0.86),
        fill("dark", -0.7, 0.82, 0.0, 0.76, 0.02, 0.86, -0.7, 0.92),
        line("metal", 0.11, 0.7, 0.32, 0.46, 1.05, 0.3, 1.12),
        oval("lamp", -0.9, 0.74, 0.07, 0.06),
    ]


def _seated(side: bool, rng: np.random.Generator) -> List[Part]:
    lean = rng.uniform(0.05, 0.35)
    cap = "hair" if rng.random() < 0.5 else "metal"
    if not side:
        return _walker(rng)[2:5] + [
            line("legs", 0.17, -0.1, 0.85, -0.2, 0.35),
            line("legs", 0.17, 0.1, 0.85, 0.2, 0.35),
            oval("skin", 0, 1.62, 0.11, 0.14),
            oval(cap, 0, 1.69, 0.13, 0.1),
        ]
    return [
        line("legs", 0.17, -0.18, 0.95, 0.2, 0.75, 0.06, 0.3),
        fill("top", -0.32, 0.88, -0.04, 0.88, lean + 0.12, 1.4, lean - 0.12, 1.46),
        line("top", 0.12, lean, 1.36, lean + 0.12, 1.08, 0.36, 1.03),
        oval("skin", lean + 0.06, 1.6, 0.11, 0.14),
        oval(cap, lean + 0.04, 1.67, 0.13, 0.1),
    ]


def person(canvas: Canvas, camera: Camera, label: int, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw somebody on foot."""
    _stand(canvas, camera, _walker(rng), _dress(rng), label, x, z, rng.uniform(0.8, 1.08), 1.0, FIBRE)


def two_wheeler(
    canvas: Canvas,
    camera: Camera,
    kind: str,
    labels: Tuple[int, int],
    x: float,
    z: float,
    rng: np.random.Generator,
    *,
    ridden: bool,
) -> None:
    """Draw a bicycle or motorcycle (`labels` = (of the vehicle, of its rider)), from the side or from behind."""
    side = bool(rng.random() < 0.7)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    dress = _dress(rng)
    parts = _bicycle(side) if kind == "bicycle" else _motorcycle(side)
    _stand(canvas, camera, parts, dress, labels[0], x, z, 1.0, mirror, GRAIN)
    if ridden:
        _stand(canvas, camera, _seated(side, rng), dress, labels[1], x, z, rng.uniform(0.95, 1.05), mirror, FIBRE)


def _stand(
    canvas: Canvas,
    camera: Camera,
    parts: Sequence[Part],
    colors: Dict[str, Color],
    label: int,
    x: float,
    z: float,
    size: float,
    mirror: float,
    texture: int,
) -> None:
    """Draw a figure, whose coordinates are metres, on the street."""
    metre = camera.focal / z * size
    draw(canvas, parts, camera.project(x, 0.0, z), (mirror * metre, metre), colors, label, texture, least=0.012)
