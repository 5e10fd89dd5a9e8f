"""Street scenes with the raw label ids of Cityscapes: a street in perspective, its frontage, furniture and traffic."""

from typing import Sequence, Tuple

import numpy as np

from .canvas import ASPHALT, BRICK, FOLIAGE, GRAIN, SMOOTH, Canvas, Color, Light, Textures, circle, rectangle, shade
from .frontage import frontage
from .layout import (
    CARAVAN,
    COUNTED,
    EGO_VEHICLE,
    FAR,
    ID,
    MASONRY,
    METAL,
    PARKING,
    RAIL_TRACK,
    RECTIFICATION_BORDER,
    STATIC,
    Street,
)
from .people import person, two_wheeler
from .vehicles import DARK, PAINTS, vehicle


def street(
    height: int, width: int, textures: Textures, rng: np.random.Generator
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one scene: RGB uint8 (H, W, 3), Cityscapes raw ids uint8 (H, W) and instance ids uint16 (H, W)."""
    canvas = Canvas(height, width, ID["sky"])
    scene = Street(canvas, rng)
    _sky(scene)
    _ground(scene)
    for side in (-1, 1):
        frontage(scene, side)
    _traffic(scene)
    _street_furniture(scene)
    scene.paint()
    _shadows(scene)
    _own_car(scene)
    return canvas.photograph(textures, _light(rng), rng), canvas.label, instance_ids(canvas.label, canvas.objects)


def instance_ids(raw: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Cityscapes' instanceIds, uint16 (height, width): 1000 id + k for the k-th visible object of a class, else the id.

    raw: ids, uint8; objects: a number for each object, which may have parts of several classes (bicycle and rider).
    """
    found = raw.astype(np.uint16)
    for counted in COUNTED:
        mask = raw == counted
        _, k = np.unique(objects[mask], return_inverse=True)
        found[mask] = 1000 * counted + k
    return found


def _light(rng: np.random.Generator) -> Light:
    night = rng.random() < 0.12
    warmth = rng.normal(0, 0.05)
    tint = np.array((0.75, 0.85, 1.1)) if night else np.array((1.0 + warmth, 1.0, 1.0 - warmth))
    gain = rng.uniform(0.4, 0.6) if night else rng.uniform(0.8, 1.15)
    return Light(
        gain,
        tint,
        (rng.normal(0, 0.25), rng.normal(0, 0.15)),
        rng.uniform(0.7, 1.1),
        rng.uniform(0.001, 0.004),
        rng.uniform(2, 6),
    )


def _sky(scene: Street) -> None:
    grey = scene.rng.uniform(0, 1)
    top = (1 - grey) * np.array((110, 150, 205)) + grey * np.array((175, 178, 182))
    scene.canvas.vertical_gradient(top, top * 0.5 + 112, 0.55)
    if scene.rng.random() < 0.6:
        for _ in range(3):
            x, y = scene.rng.uniform(0, scene.canvas.aspect), scene.rng.uniform(0, 0.35)
            scene.canvas.polygon(
                circle(x, y, scene.rng.uniform(0.1, 0.4), scene.rng.uniform(0.01, 0.06)), shade(top, 1.12)
            )


def _ground(scene: Street) -> None:
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    asphalt = np.array((96, 94, 96)) * rng.uniform(0.8, 1.25) + rng.normal(0, 4, 3)
    paving = asphalt * rng.uniform(1.0, 1.3) + rng.normal(0, 8, 3)
    canvas.polygon(rectangle(0, camera.horizon, canvas.aspect, 1.0), asphalt, ID["road"], ASPHALT)
    ends = [2.0, FAR, FAR, 2.0]

    def strip(x0: float, x1: float, color: Color, label: int, texture: int, depth: Sequence[float] = ends) -> None:
        canvas.polygon(camera.project([x0, x0, x1, x1], 0.0, depth), color, label, texture)

    for side in (-1, 1):
        kerb, back = side * scene.half, side * (scene.half + scene.pavement)
        strip(kerb, side * 30, paving, ID["sidewalk"], ASPHALT if rng.random() < 0.6 else BRICK)
        strip(kerb, kerb + side * 0.15, shade(paving, 1.2), ID["sidewalk"], ASPHALT)
        if rng.random() < 0.6:
            green = np.array((112, 116, 66)) * rng.uniform(0.75, 1.25) + rng.normal(0, 10, 3)
            strip(
                side * (scene.half + scene.pavement * rng.uniform(0.25, 0.6)),
                side * 30,
                green,
                ID["terrain"],
                FOLIAGE if rng.random() < 0.5 else GRAIN,
            )
        if rng.random() < 0.12:
            strip(kerb, back, shade(asphalt, 1.08), PARKING, ASPHALT, [7.0, 16.0, 16.0, 7.0])
    white = shade((205, 205, 200), rng.uniform(0.75, 1.0))
    for z in np.arange(2.5, 40, 6.0):
        canvas.details([camera.project([-0.08, -0.08, 0.08, 0.08], 0.0, [z, z + 3, z + 3, z])], white)
    if rng.random() < 0.25:
        z = rng.uniform(5, 14)
        canvas.details(
            [
                camera.project([x, x, x + 0.4, x + 0.4], 0.0, [z, z + 2.5, z + 2.5, z])
                for x in np.arange(-scene.half, scene.half - 0.3, 0.9)
            ],
            white,
        )


def _traffic(scene: Street) -> None:
    """Vehicles and people. Every class that is rare on real streets has its own chance to be there."""
    rng, half, canvas, camera = scene.rng, scene.half, scene.canvas, scene.camera

    def add(kind: str, label: int, x: float, low: float, high: float, heading: str, length: float) -> float:
        z, seed = scene.place(x, length, low, high), int(rng.integers(1 << 62))
        if z:
            scene.later(
                z, lambda: vehicle(canvas, camera, kind, label, x, z, np.random.default_rng(seed), heading=heading)
            )
        return z

    for kind, chance, length in (("truck", 0.5, 7.0), ("bus", 0.5, 10.0), ("train", 0.55, 18.0)):
        if rng.random() < chance:
            heading = str(rng.choice(["away", "towards", "across"], p=[0.45, 0.4, 0.15]))
            x = rng.choice([-1, 1]) * half * rng.uniform(0.4, 0.75) if heading != "across" else rng.uniform(-5, 5)
            z = add(
                kind, ID[kind], x, 7 if heading != "across" else 11, 15, heading, length if heading != "across" else 3.0
            )
            if kind == "train" and z and heading != "across":
                for rail in (x - 0.72, x + 0.72):
                    rails = camera.project([rail - 0.2, rail - 0.2, rail + 0.2, rail + 0.2], 0.0, [2.0, FAR, FAR, 2.0])
                    canvas.polygon(rails, (88, 82, 80), RAIL_TRACK, ASPHALT)
    for _ in range(rng.integers(2, 7)):
        parked = rng.random() < 0.5
        x = rng.choice([-1, 1]) * half * (rng.uniform(0.72, 0.85) if parked else rng.uniform(0.25, 0.5))
        heading = str(rng.choice(["away", "towards", "across"], p=[0.5, 0.4, 0.1]))
        caravan = rng.random() < 0.04
        add("caravan" if caravan else "car", CARAVAN if caravan else ID["car"], x, 6.5, 40, heading, 4.5)
    for kind, ridden, chance in (
        ("bicycle", True, 0.42),
        ("motorcycle", True, 0.4),
        ("bicycle", False, 0.3),
        ("motorcycle", False, 0.25),
    ):
        for _ in range(2):
            if rng.random() < chance:
                x = rng.choice([-1, 1]) * (half * rng.uniform(0.3, 0.95) if ridden else half + rng.uniform(0.2, 1.0))
                _wheels(scene, kind, x, ridden)
    for _ in range(rng.integers(1, 6)):
        x = (
            rng.choice([-1, 1]) * (half + rng.uniform(0.1, scene.pavement))
            if rng.random() < 0.75
            else rng.uniform(-half, half)
        )
        _pedestrian(scene, x)


def _wheels(scene: Street, kind: str, x: float, ridden: bool) -> None:
    z, seed = scene.place(x, 1.0, 4.5, 10.0, gap=1.2), int(scene.rng.integers(1 << 62))
    if z:
        ids = (ID[kind], ID["rider"])
        scene.later(
            z,
            lambda: two_wheeler(
                scene.canvas, scene.camera, kind, ids, x, z, np.random.default_rng(seed), ridden=ridden
            ),
        )


def _pedestrian(scene: Street, x: float) -> None:
    z, seed = scene.place(x, 0.4, 4.5, 10.0, gap=0.5), int(scene.rng.integers(1 << 62))
    if z:
        scene.later(z, lambda: person(scene.canvas, scene.camera, ID["person"], x, z, np.random.default_rng(seed)))


def _street_furniture(scene: Street) -> None:
    rng = scene.rng
    for _ in range(rng.integers(3, 7)):
        side = rng.choice([-1, 1])
        x = side * (scene.half + rng.uniform(0.2, 1.2))
        carries = str(rng.choice(["lamp", "light", "sign", "both"], p=[0.22, 0.3, 0.36, 0.12]))
        z = scene.place(x, 0.3, 5.0, 13.0, gap=0.6)
        if z:
            _pole(scene, x, z, int(side), carries)
    if rng.random() < 0.25:
        x = rng.choice([-1, 1]) * (scene.half + rng.uniform(0.4, scene.pavement))
        z = scene.place(x, 0.6, 6.0, 14.0, gap=0.8)
        box = rectangle(*scene.camera.project(x - 0.35, 1.1, z or 1.0), *scene.camera.project(x + 0.35, 0.0, z or 1.0))
        color = scene.color(METAL)
        if z:
            scene.later(z, lambda: scene.canvas.polygon(box, color, STATIC, GRAIN))


def _pole(scene: Street, x: float, z: float, side: int, carries: str) -> None:
    """A pole in its frontage's colours; it may carry a lamp's arm, a traffic light and signs."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    metre = camera.focal / z
    tall = rng.uniform(5, 8) if carries == "lamp" else rng.uniform(2.8, 4.2)
    color = scene.color(METAL if rng.random() < 0.85 else MASONRY)
    wide = max(rng.uniform(0.18, 0.3) * metre, 0.022)
    head = tall - rng.uniform(0.0, 0.4)
    lit = [(225, 60, 45), (235, 180, 60), (70, 215, 120)][rng.integers(3)]
    bulb = int(rng.integers(3))
    housing = shade(DARK if rng.random() < 0.7 else (120, 112, 60), rng.uniform(0.9, 1.6))
    board = [(60, 90, 165), (205, 60, 50), (225, 222, 215), (215, 175, 60)][rng.integers(4)]
    form, back = int(rng.integers(3)), rng.random() < 0.1
    size = rng.uniform(0.45, 0.65)

    def paint() -> None:
        foot, top = camera.project(x, 0.0, z), camera.project(x, tall, z)
        canvas.polygon(rectangle(foot[0] - wide / 2, top[1], foot[0] + wide / 2, foot[1]), color, ID["pole"], GRAIN)
        if carries == "lamp":
            arm = camera.project([x, x - side * 1.6], tall, z)
            canvas.stroke(arm, wide * 0.7, color, ID["pole"], GRAIN, 0.014)
        if carries in ("light", "both"):
            cx, cy = camera.project(x, head, z)
            half, long = max(0.3 * metre, 0.02), max(0.75 * metre, 0.045)
            canvas.polygon(rectangle(cx - half, cy - long, cx + half, cy + long), housing, ID["traffic light"], SMOOTH)
            for i in range(3):
                glow = lit if i == bulb else (62, 60, 58)
                canvas.polygon(circle(cx, cy + (i - 1) * long * 0.62, half * 0.62), glow)
        if carries in ("sign", "both"):
            cx, cy = camera.project(x, head - (1.5 if carries == "both" else 0.0), z)
            _sign(canvas, cx, cy, max(size * metre, 0.026), form, color if back else board, plain=back)

    scene.later(z, paint)


def _sign(canvas: Canvas, x: float, y: float, radius: float, form: int, color: Color, *, plain: bool) -> None:
    outline = [
        circle(x, y, radius),
        np.array([(x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8), (x, y - radius)]),
        rectangle(x - radius, y - radius, x + radius, y + radius),
    ][form]
    canvas.polygon(outline, color, ID["traffic sign"], SMOOTH)
    if not plain:
        inner = (outline - (x, y)) * 0.6 + (x, y)
        canvas.polygon(inner, (228, 226, 220) if sum(color) < 500 else (70, 72, 80))


def _shadows(scene: Street) -> None:
    """Shadows of houses and trees on the ground: darker bands that no label knows of."""
    for _ in range(scene.rng.integers(0, 4)):
        x, z = scene.rng.uniform(-8, 4), scene.rng.uniform(3, 14)
        width, depth, slant = scene.rng.uniform(2, 7), scene.rng.uniform(1, 4), scene.rng.uniform(-2, 2)
        band = scene.camera.project([x, x + width, x + width + slant, x + slant], 0.0, [z, z, z + depth, z + depth])
        scene.canvas.darken(band, scene.rng.uniform(0.55, 0.8))


def _own_car(scene: Street) -> None:
    """The camera's own car at the lower edge and the border that rectification leaves: both unlabelled."""
    canvas, rng = scene.canvas, scene.rng
    if rng.random() < 0.7:
        bonnet = circle(canvas.aspect * rng.uniform(0.45, 0.55), 1.02, canvas.aspect * 0.42, rng.uniform(0.05, 0.1))
        canvas.polygon(bonnet, shade(PAINTS[rng.integers(len(PAINTS))], 0.5), EGO_VEHICLE, SMOOTH)
    border = 0.006
    for outline in (
        rectangle(0, 0, border, 1),
        rectangle(canvas.aspect - border, 0, canvas.aspect, 1),
        rectangle(0, 0, canvas.aspect, border),
    ):
        canvas.polygon(outline, (0, 0, 0), RECTIFICATION_BORDER, SMOOTH)
