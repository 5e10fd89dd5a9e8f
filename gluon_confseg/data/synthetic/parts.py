"""Flat figures made of parts: outlines and strokes in the figure's own coordinates, painted by roles.

A figure stands on y = 0, y points up, and x = 0 is its middle.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from .canvas import Canvas, Color, circle


class Part(NamedTuple):
    """One piece of a figure: a stroke, or (`thickness` None) a filled outline; `role` None: only the label has it."""

    role: Optional[str]
    points: np.ndarray
    thickness: Optional[float] = None


def fill(role: Optional[str], *numbers: float) -> Part:
    """Filled outline through x0, y0, x1, y1, ..."""
    return Part(role, np.array(numbers, dtype=np.float64).reshape(-1, 2))


def oval(role: Optional[str], x: float, y: float, rx: float, ry: float) -> Part:
    """Filled ellipse."""
    return Part(role, circle(x, y, rx, ry))


def line(role: Optional[str], thickness: float, *numbers: float) -> Part:
    """Stroke through x0, y0, x1, y1, ..."""
    return Part(role, np.array(numbers, dtype=np.float64).reshape(-1, 2), thickness)


def ring(role: str, thickness: float, x: float, y: float, radius: float) -> Part:
    """Circle that is drawn as a stroke."""
    outline = circle(x, y, radius)
    return Part(role, np.concatenate([outline, outline[:1]]), thickness)


def draw(
    canvas: Canvas,
    parts: Sequence[Part],
    foot: Sequence[float],
    scale: Sequence[float],
    colors: Dict[str, Color],
    label: int,
    texture: int,
    *,
    least: float = 0.0,
    turn: float = 0.0,
) -> None:
    """Draw a figure whose origin stands at `foot`.

    `scale` = (across, up), in heights; a negative `across` mirrors the figure. `turn` is in radians.
    """
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array([[cosine, sine], [sine, -cosine]]) * np.asarray(scale, np.float64)
    for part in parts:
        points = part.points @ matrix.T + foot
        color = None if part.role is None else colors[part.role]
        if part.thickness is None:
            canvas.polygon(points, color, label, texture)
        else:
            canvas.stroke(points, part.thickness * scale[1], color, label, texture, least)


def jitter(parts: Sequence[Part], amount: float, rng: np.random.Generator) -> List[Part]:
    """The same figure with a smooth random deformation of about `amount` (relative to a figure of size 1)."""
    wave = rng.normal(0, amount, (2, 2))
    phase = rng.uniform(0, 2 * np.pi, 2)
    deformed = []
    for part in parts:
        x, y = part.points[:, 0], part.points[:, 1]
        dx = wave[0, 0] * np.sin(4 * y + phase[0]) + wave[0, 1] * x * y
        dy = y * (wave[1, 0] * np.sin(4 * x + phase[1]) + wave[1, 1] * x)
        deformed.append(part._replace(points=part.points + np.stack([dx, dy], 1)))
    return deformed
