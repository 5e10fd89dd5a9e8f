"""Indoor and outdoor pictures with PASCAL VOC's objects and ids: 0..20, a void border (255) around each object."""

from typing import List, Tuple

import cv2
import numpy as np

from ...labels import IGNORE_LABEL, VOC
from .canvas import ASPHALT, BRICK, FIBRE, FOLIAGE, GRAIN, SMOOTH, Canvas, Light, Textures, circle, rectangle, shade
from .parts import draw, jitter
from .silhouettes import FABRIC, LEAF, SILHOUETTES, WOOD, Silhouette

_BACKGROUND = VOC.index("background")
_INDOORS = ("bottle", "cat", "chair", "dining table", "dog", "person", "potted plant", "sofa", "tv monitor")
_OUTDOORS = tuple(name for name in SILHOUETTES if name not in _INDOORS) + ("person", "dog")
# Classes that often come together: (first, second).
_PAIRS = {
    "dining table": "chair",
    "chair": "dining table",
    "sofa": "potted plant",
    "bicycle": "person",
    "motorbike": "person",
    "horse": "person",
}


def scene(height: int, width: int, textures: Textures, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Draw one picture: RGB uint8 (height, width, 3) and VOC ids uint8 (height, width)."""
    canvas = Canvas(height, width, _BACKGROUND)
    names = _cast(rng)
    horizon = rng.uniform(0.42, 0.68)
    if names[0] in _INDOORS and (names[0] not in _OUTDOORS or rng.random() < 0.5):
        _room(canvas, horizon, rng)
    else:
        _outdoors(canvas, horizon, SILHOUETTES[names[0]].place, rng)
    # far objects first: they stand higher in the picture and are smaller
    for name, nearness in zip(names, np.sort(rng.uniform(0, 1, len(names)))):
        _object(canvas, name, nearness, horizon, rng)
    gain = rng.uniform(0.65, 1.15)
    tint = 1.0 + rng.normal(0, 0.06, 3)
    light = Light(
        gain,
        tint,
        (rng.normal(0, 0.3), rng.normal(0, 0.2)),
        rng.uniform(0.7, 1.1),
        rng.uniform(0.001, 0.005),
        rng.uniform(2, 7),
    )
    return canvas.photograph(textures, light, rng), canvas.label


def _cast(rng: np.random.Generator) -> List[str]:
    """The classes in a picture; the first decides what kind of place it is."""
    first = VOC.classes[1 + rng.integers(20)]
    names = [first]
    if first in _PAIRS and rng.random() < 0.5:
        names.append(_PAIRS[first])
    table = _INDOORS if first in _INDOORS else _OUTDOORS
    for _ in range(rng.choice(3, p=[0.3, 0.4, 0.3])):
        names.append(first if rng.random() < 0.3 else table[rng.integers(len(table))])
    return names


def _color(table: Tuple, rng: np.random.Generator, spread: float = 9.0) -> np.ndarray:
    return np.clip(
        np.array(table[rng.integers(len(table))]) * rng.uniform(0.75, 1.2) + rng.normal(0, spread, 3), 5, 250
    )


def _object(canvas: Canvas, name: str, nearness: float, horizon: float, rng: np.random.Generator) -> None:
    """Draw one object and its void border."""
    figure = SILHOUETTES[name]
    size = figure.size[0] + (figure.size[1] - figure.size[0]) * (0.7 * nearness + 0.3 * rng.random())
    x = rng.uniform(0.12, 0.88) * canvas.aspect
    if figure.place == "air" and rng.random() < 0.7:
        foot = (x, rng.uniform(size * 0.6, 0.95))
    else:
        foot = (x, horizon + 0.08 + (0.97 - horizon - 0.08) * (0.65 * nearness + 0.35 * rng.random()))
        canvas.darken(circle(foot[0], foot[1], size * 0.5, 0.035), 0.6)
    scene_label = canvas.label
    canvas.label = np.zeros_like(scene_label)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.85, 1.15)
    parts = jitter(figure.variants[rng.integers(len(figure.variants))], 0.02, rng)
    draw(
        canvas,
        parts,
        foot,
        (mirror * size * stretch, size),
        _roles(figure, rng),
        1,
        figure.texture,
        least=0.012,
        turn=rng.normal(0, 0.05),
    )
    mask, canvas.label = canvas.label, scene_label
    border = np.ones((max(2, int(round(0.012 * canvas.height))) + 1,) * 2, np.uint8)
    scene_label[cv2.dilate(mask, border) > 0] = IGNORE_LABEL
    scene_label[mask > 0] = VOC.index(name)


def _roles(figure: Silhouette, rng: np.random.Generator) -> dict:
    main = _color(figure.main, rng)
    second = shade(main, rng.uniform(0.6, 0.85)) if rng.random() < 0.5 else _color(figure.second, rng)
    return {
        "a": main,
        "b": second,
        "d": shade((40, 40, 44), rng.uniform(0.6, 1.3)),
        "l": shade((210, 208, 202), rng.uniform(0.7, 1.1)),
        "g": shade((70, 84, 98), rng.uniform(0.6, 1.5)),
        "s": shade((205, 160, 132), rng.uniform(0.5, 1.1)),
        "y": shade((214, 168, 70), rng.uniform(0.7, 1.1)),
        "f": _color(LEAF, rng),
    }


def _room(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    """A wall and a floor, with unlabelled furniture of the same wood and fabric as the labelled one."""
    aspect = canvas.aspect
    wall = _color(FABRIC + ((196, 188, 172), (170, 178, 182)), rng)
    canvas.polygon(rectangle(0, 0, aspect, 1), wall, None, int(rng.choice([SMOOTH, GRAIN, FIBRE])))
    canvas.polygon(
        rectangle(0, horizon, aspect, 1), _color(WOOD + FABRIC, rng), None, int(rng.choice([FIBRE, GRAIN, BRICK]))
    )
    canvas.polygon(rectangle(0, horizon - 0.03, aspect, horizon), shade(wall, rng.uniform(0.6, 1.3)))
    for _ in range(rng.integers(1, 5)):
        x, kind = rng.uniform(0, aspect), rng.integers(5)
        if kind == 0:  # window
            y, w, h = rng.uniform(0.05, 0.2), rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
            canvas.polygon(rectangle(x, y, x + w, y + h), (206, 218, 228), None, SMOOTH)
            canvas.details([rectangle(x + w * 0.48, y, x + w * 0.52, y + h)], shade(wall, 1.2))
        elif kind == 1:  # shelf or cupboard
            w, top, wood = rng.uniform(0.2, 0.5), rng.uniform(0.05, horizon - 0.1), _color(WOOD, rng)
            canvas.polygon(rectangle(x, top, x + w, horizon + 0.04), wood, None, FIBRE)
            for y in np.arange(top + 0.08, horizon, 0.12):
                canvas.stroke(np.array([(x, y), (x + w, y)]), 0.012, shade(wood, 0.55))
        elif kind == 2:  # curtain
            canvas.polygon(rectangle(x, 0, x + rng.uniform(0.12, 0.3), horizon + 0.1), _color(FABRIC, rng), None, FIBRE)
        elif kind == 3:  # picture
            y, w, h = rng.uniform(0.05, 0.25), rng.uniform(0.1, 0.25), rng.uniform(0.1, 0.2)
            canvas.polygon(rectangle(x, y, x + w, y + h), _color(WOOD, rng), None, FIBRE)
            canvas.polygon(
                rectangle(x + 0.02, y + 0.02, x + w - 0.02, y + h - 0.02), _color(LEAF + FABRIC, rng), None, FOLIAGE
            )
        else:  # rug or box on the floor
            y = rng.uniform(horizon + 0.1, 0.95)
            w, h = rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.2)
            canvas.polygon(
                np.array([(x - w, y), (x + w, y), (x + w * 0.8, y - h), (x - w * 0.8, y - h)]),
                _color(FABRIC + WOOD, rng),
                None,
                FIBRE,
            )


def _outdoors(canvas: Canvas, horizon: float, place: str, rng: np.random.Generator) -> None:
    """Sky over grass, a road, sand or water, with trees, houses and fences that VOC does not label."""
    aspect = canvas.aspect
    sky = np.array((120, 160, 208)) * rng.uniform(0.75, 1.1) + rng.normal(0, 14, 3)
    canvas.vertical_gradient(np.clip(sky, 0, 250), np.clip(sky * 0.5 + 110, 0, 250), horizon)
    if place == "air" and rng.random() < 0.4:
        canvas.vertical_gradient(np.clip(sky, 0, 250), np.clip(sky * 0.6 + 85, 0, 250), 1.0)
        return
    ground = [((98, 118, 64), FOLIAGE), ((112, 110, 110), ASPHALT), ((176, 156, 120), GRAIN), ((74, 104, 124), ASPHALT)]
    kind = 3 if place == "water" or rng.random() < 0.08 else int(rng.integers(3))
    for _ in range(rng.integers(1, 5)):
        x, what = rng.uniform(0, aspect), rng.integers(3)
        if what == 0:  # trees
            green = _color(LEAF, rng)
            for _ in range(4):
                canvas.polygon(
                    circle(x + rng.normal(0, 0.08), horizon - rng.uniform(0, 0.2), rng.uniform(0.07, 0.16)),
                    green,
                    None,
                    FOLIAGE,
                )
        elif what == 1:  # house
            w, h = rng.uniform(0.2, 0.5), rng.uniform(0.12, 0.35)
            canvas.polygon(rectangle(x, horizon - h, x + w, horizon), _color(FABRIC + WOOD, rng), None, BRICK)
            glass = [
                rectangle(x + u, horizon - h * 0.7, x + u + 0.035, horizon - h * 0.4)
                for u in np.arange(0.03, w - 0.04, 0.08)
            ]
            canvas.details(glass, (70, 84, 98))
        else:  # fence
            wood = _color(WOOD, rng)
            posts = np.arange(x, x + rng.uniform(0.3, 0.9), 0.07)
            canvas.details([rectangle(post, horizon - 0.1, post + 0.02, horizon + 0.02) for post in posts], wood)
            canvas.details([rectangle(x, horizon - 0.08, posts[-1], horizon - 0.06)], shade(wood, 0.8))
    color, texture = ground[kind]
    canvas.polygon(
        rectangle(0, horizon, aspect, 1), np.array(color) * rng.uniform(0.75, 1.2) + rng.normal(0, 8, 3), None, texture
    )
