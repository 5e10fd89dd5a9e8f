"""Street scenes with the raw label ids of Cityscapes: a street in perspective, its frontage, furniture and traffic."""

from typing import Callable, Dict, List, Tuple

import numpy as np

from ...labels import CITYSCAPES, IGNORE_LABEL
from .canvas import ASPHALT, BRICK, FIBRE, FOLIAGE, GRAIN, SMOOTH, Canvas, Light, Textures, rectangle, shade
from .canvas import circle as disc
from .traffic import DARK, GLASS, PAINTS, Camera, person, two_wheeler, vehicle

# Raw ids: those of the trained classes from the class table, and the unlabelled areas that the scenes have.
ID: Dict[str, int] = {
    CITYSCAPES.classes[train]: raw for raw, train in CITYSCAPES.raw_ids.items() if train != IGNORE_LABEL
}
EGO_VEHICLE, RECTIFICATION_BORDER, STATIC, PARKING, RAIL_TRACK, CARAVAN = 1, 2, 4, 9, 10, 29

# Masonry, shared by buildings, walls, closed fences and the end of the street.
_MASONRY = np.array(
    [(150, 128, 108), (128, 110, 100), (166, 156, 140), (118, 116, 114), (146, 104, 86), (182, 170, 146), (98, 92, 88)],
    dtype=np.float64,
)
_METAL = np.array([(96, 98, 100), (70, 74, 76), (132, 132, 130), (84, 96, 84)], dtype=np.float64)
_FAR = 75.0

Deferred = List[Tuple[float, Callable[[], None]]]  # depth and how to draw: painted far to near


class _Street:
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
        self.taken: List[
            Tuple[float, float, float]
        ] = []  # x, nearest z, farthest z of what already stands on the ground

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
        for _, draw in sorted(self.deferred, key=lambda item: -item[0]):
            draw()


def street(height: int, width: int, textures: Textures, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Draw one scene: RGB uint8 (height, width, 3) and Cityscapes raw ids uint8 (height, width)."""
    canvas = Canvas(height, width, ID["sky"])
    scene = _Street(canvas, rng)
    _sky(scene)
    _ground(scene)
    for side in (-1, 1):
        _frontage(scene, side)
    _traffic(scene)
    _street_furniture(scene)
    scene.paint()
    _shadows(scene)
    _own_car(scene)
    return canvas.photograph(textures, _light(rng), rng), canvas.label


def _light(rng: np.random.Generator) -> Light:
    night = rng.random() < 0.12
    warmth = rng.normal(0, 0.05)
    tint = np.array((0.75, 0.85, 1.1)) if night else np.array((1.0 + warmth, 1.0, 1.0 - warmth))
    gain = rng.uniform(0.4, 0.6) if night else rng.uniform(0.7, 1.15)
    return Light(
        gain,
        tint,
        (rng.normal(0, 0.25), rng.normal(0, 0.15)),
        rng.uniform(0.7, 1.1),
        rng.uniform(0.001, 0.004),
        rng.uniform(3, 8),
    )


def _sky(scene: _Street) -> None:
    grey = scene.rng.uniform(0, 1)
    top = (1 - grey) * np.array((110, 150, 205)) + grey * np.array((175, 178, 182))
    scene.canvas.vertical_gradient(top, top * 0.5 + 112, 0.55)
    if scene.rng.random() < 0.6:
        for _ in range(3):
            x, y = scene.rng.uniform(0, scene.canvas.aspect), scene.rng.uniform(0, 0.35)
            scene.canvas.polygon(
                disc(x, y, scene.rng.uniform(0.1, 0.4), scene.rng.uniform(0.01, 0.06)), shade(top, 1.12)
            )


def _ground(scene: _Street) -> None:
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    asphalt = np.array((96, 94, 96)) * rng.uniform(0.8, 1.25) + rng.normal(0, 4, 3)
    paving = asphalt * rng.uniform(1.0, 1.3) + rng.normal(0, 8, 3)
    canvas.polygon(rectangle(0, camera.horizon, canvas.aspect, 1.0), asphalt, ID["road"], ASPHALT)
    ends = [2.0, _FAR, _FAR, 2.0]

    def strip(x0: float, x1: float, color: object, label: int, texture: int, depth: object = ends) -> None:
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


def _frontage(scene: _Street, side: int) -> None:
    """What lines the street on one side, and what stands behind it."""
    rng = scene.rng
    line = side * (scene.half + scene.pavement)
    backdrop = rng.choice(["building", "trees", "nothing"], p=[0.55, 0.25, 0.2])
    if backdrop == "trees":
        for z in np.linspace(_FAR, 14, 7):
            _tree(scene, line + side * rng.uniform(4, 8), z, 900 + z)
    z = 3.0
    while z < _FAR:
        end = min(_FAR, z + rng.uniform(5, 13) * (1 if z < 20 else 2))
        kind = rng.choice(["building", "wall", "fence", "trees", "open"], p=[0.36, 0.22, 0.2, 0.15, 0.07])
        if kind == "building":
            _building(scene, line, side, z, end, end)
        elif kind == "trees":
            for tree in np.arange(end, z, -4.0):
                _tree(scene, line + side * rng.uniform(0.3, 2.0), tree, tree)
            if rng.random() < 0.5:
                _barrier(scene, line + side * 0.2, z, end, rng.uniform(0.8, 1.6), "vegetation")
        elif kind != "open":
            _barrier(scene, line, z, end, rng.uniform(1.4, 3.6) if kind == "wall" else rng.uniform(1.1, 2.4), kind)
        if kind not in ("building", "trees") and backdrop == "building" and rng.random() < 0.8:
            _building(scene, line + side * rng.uniform(4, 9), side, z, end, 500 + end)
        z = end
    if rng.random() < 0.75:
        _street_end(scene, line, side)


def _street_end(scene: _Street, line: float, side: int) -> None:
    """Close the view: a facade, wall or fence across the end of the street."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    kind = rng.choice(["building", "wall", "fence", "vegetation"], p=[0.5, 0.15, 0.15, 0.2])
    height = rng.uniform(6, 18) if kind == "building" else rng.uniform(3, 8)
    color = np.array((84, 100, 62)) if kind == "vegetation" else scene.color(_MASONRY)
    texture = FOLIAGE if kind == "vegetation" else GRAIN
    outline = camera.project(
        [line * 1.5, line * 1.5, -side, -side], [0, height, height * rng.uniform(0.6, 1.2), 0], _FAR
    )
    scene.later(1500, lambda: canvas.polygon(outline, color, ID[kind], texture))


def _building(scene: _Street, x: float, side: int, near: float, far: float, depth: float) -> None:
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    height = rng.uniform(4.5, 17)
    color, texture = scene.color(_MASONRY), int(rng.choice([GRAIN, BRICK, SMOOTH], p=[0.55, 0.2, 0.25]))
    glass = shade(GLASS, rng.uniform(0.8, 2.2))
    columns = np.arange(near + 0.7, far - 1.0, rng.uniform(1.8, 3.2))
    rows = (
        np.arange(rng.choice([0.8, 4.0]), height - 1.6, rng.uniform(2.7, 3.4)) if rng.random() < 0.85 else np.zeros(0)
    )
    columns = columns[columns < 34]  # farther windows are smaller than a pixel
    sills, wides = rng.uniform(1.2, 1.9) * np.array([0, 0, 1, 1]), rng.uniform(0.8, 1.5) * np.array([0, 1, 1, 0])
    shop = PAINTS[rng.integers(len(PAINTS))] if rng.random() < 0.4 else None

    def paint() -> None:
        end = x + side * 12
        canvas.polygon(
            camera.project([x, end, end, x], [0, 0, height, height], near), shade(color, 0.8), ID["building"], texture
        )
        canvas.polygon(
            camera.project(x, [0, 0, height, height], [near, far, far, near]), color, ID["building"], texture
        )
        canvas.polygon(
            camera.project(x, [height - 0.5, height - 0.5, height, height], [near, far, far, near]), shade(color, 0.75)
        )
        if shop is not None:
            canvas.polygon(
                camera.project(x, [2.7, 2.7, 3.5, 3.5], [near + 0.5, far - 0.5, far - 0.5, near + 0.5]), shop
            )
        corners = camera.project(x, (rows[None, :, None] + sills), (columns[:, None, None] + wides))
        canvas.details(corners.reshape(-1, 4, 2), glass)

    scene.later(depth, paint)


def _barrier(scene: _Street, x: float, near: float, far: float, height: float, kind: str) -> None:
    """A wall, a fence (railings or boards) or a hedge along the street."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    open_work = kind == "fence" and rng.random() < 0.5
    texture = {
        "wall": int(rng.choice([GRAIN, BRICK], p=[0.25, 0.75])),
        "fence": int(rng.choice([FIBRE, GRAIN], p=[0.75, 0.25])),
        "vegetation": FOLIAGE,
    }[kind]
    color = scene.color(_METAL if open_work else _MASONRY)
    if kind == "vegetation":
        color = np.array((76, 98, 56)) * rng.uniform(0.7, 1.3)
    spacing = rng.uniform(0.3, 0.6) if open_work else rng.uniform(1.2, 2.5)

    def paint() -> None:
        depths = [near, far, far, near]
        outline = camera.project(x, [0, 0, height, height], depths)
        canvas.polygon(outline, None if open_work else color, ID[kind], texture)
        dark = shade(color, 1.0 if open_work else 0.72)
        if kind == "vegetation":
            return
        canvas.details(
            [camera.project(x, [height * 0.93, height * 0.93, height, height], depths)],
            shade(color, 1.15 if kind == "wall" else 0.85),
        )
        if kind == "fence":
            posts = np.arange(near, min(far, 30.0), spacing)
            bar = 0.07 if open_work else 0.12
            canvas.details(
                camera.project(x, height * np.array([0, 0, 1, 1]), posts[:, None] + bar * np.array([0, 1, 1, 0])), dark
            )
            canvas.details(
                [camera.project(x, [height * 0.15, height * 0.15, height * 0.25, height * 0.25], depths)], dark
            )

    scene.later(far, paint)


def _tree(scene: _Street, x: float, z: float, depth: float) -> None:
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    green = np.array((80, 102, 58)) * rng.uniform(0.65, 1.3) + rng.normal(0, 8, 3)
    trunk, crown, metre = rng.uniform(1.6, 3.2), rng.uniform(1.4, 2.8), camera.focal / z
    blobs = rng.normal(0, 0.45, (5, 2)) * crown
    sizes = rng.uniform(0.5, 0.95, 5) * crown

    def paint() -> None:
        base = camera.project([x - 0.15, x + 0.15, x + 0.15, x - 0.15], [0, 0, trunk + crown, trunk + crown], z)
        canvas.polygon(base, (82, 70, 60), ID["vegetation"], GRAIN)
        for (dx, dy), size in zip(blobs, sizes):
            cx, cy = camera.project(x + dx, trunk + crown + dy, z)
            canvas.polygon(disc(cx, cy, size * metre), shade(green, 1.0 + 0.12 * dy / crown), ID["vegetation"], FOLIAGE)

    scene.later(depth, paint)


def _traffic(scene: _Street) -> None:
    """Vehicles and people. Every class that is rare on real streets has its own chance to be there."""
    rng, half, canvas, camera = scene.rng, scene.half, scene.canvas, scene.camera

    def add(kind: str, label: int, x: float, low: float, high: float, heading: str, length: float) -> float:
        z, seed = scene.place(x, length, low, high), int(rng.integers(1 << 62))
        if z:
            scene.later(
                z, lambda: vehicle(canvas, camera, kind, label, x, z, np.random.default_rng(seed), heading=heading)
            )
        return z

    for kind, chance, length in (("train", 0.5, 18.0), ("bus", 0.48, 10.0), ("truck", 0.52, 7.0)):
        if rng.random() < chance:
            heading = str(rng.choice(["away", "towards", "across"], p=[0.45, 0.4, 0.15]))
            x = rng.choice([-1, 1]) * half * rng.uniform(0.4, 0.75) if heading != "across" else rng.uniform(-5, 5)
            z = add(
                kind, ID[kind], x, 8 if heading != "across" else 12, 20, heading, length if heading != "across" else 3.0
            )
            if kind == "train" and z and heading != "across":
                for rail in (x - 0.72, x + 0.72):
                    rails = camera.project(
                        [rail - 0.2, rail - 0.2, rail + 0.2, rail + 0.2], 0.0, [2.0, _FAR, _FAR, 2.0]
                    )
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


def _wheels(scene: _Street, kind: str, x: float, ridden: bool) -> None:
    z, seed = scene.place(x, 1.0, 4.5, 13.0, gap=1.2), int(scene.rng.integers(1 << 62))
    if z:
        ids = (ID[kind], ID["rider"])
        scene.later(
            z,
            lambda: two_wheeler(
                scene.canvas, scene.camera, kind, ids, x, z, np.random.default_rng(seed), ridden=ridden
            ),
        )


def _pedestrian(scene: _Street, x: float) -> None:
    z, seed = scene.place(x, 0.4, 4.5, 15.0, gap=0.5), int(scene.rng.integers(1 << 62))
    if z:
        scene.later(z, lambda: person(scene.canvas, scene.camera, ID["person"], x, z, np.random.default_rng(seed)))


def _street_furniture(scene: _Street) -> None:
    rng = scene.rng
    for _ in range(rng.integers(3, 7)):
        side = rng.choice([-1, 1])
        x = side * (scene.half + rng.uniform(0.2, 1.2))
        carries = str(rng.choice(["lamp", "light", "sign", "both"], p=[0.22, 0.3, 0.36, 0.12]))
        z = scene.place(x, 0.3, 5.0, 18.0, gap=0.6)
        if z:
            _pole(scene, x, z, int(side), carries)
    if rng.random() < 0.25:
        x = rng.choice([-1, 1]) * (scene.half + rng.uniform(0.4, scene.pavement))
        z = scene.place(x, 0.6, 6.0, 14.0, gap=0.8)
        box = rectangle(*scene.camera.project(x - 0.35, 1.1, z or 1.0), *scene.camera.project(x + 0.35, 0.0, z or 1.0))
        color = scene.color(_METAL)
        if z:
            scene.later(z, lambda: scene.canvas.polygon(box, color, STATIC, GRAIN))


def _pole(scene: _Street, x: float, z: float, side: int, carries: str) -> None:
    """A pole in its frontage's colours; it may carry a lamp's arm, a traffic light and signs."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    metre = camera.focal / z
    tall = rng.uniform(5, 8) if carries == "lamp" else rng.uniform(2.8, 4.2)
    color = scene.color(_METAL if rng.random() < 0.6 else _MASONRY)
    wide = max(rng.uniform(0.14, 0.24) * metre, 0.019)
    head = tall - rng.uniform(0.0, 0.4)
    lit = [(225, 60, 45), (235, 180, 60), (70, 215, 120)][rng.integers(3)]
    bulb = int(rng.integers(3))
    housing = shade(DARK if rng.random() < 0.7 else (120, 112, 60), rng.uniform(0.9, 1.6))
    board = [(60, 90, 165), (205, 60, 50), (225, 222, 215), (215, 175, 60), (110, 110, 108)][rng.integers(5)]
    form, back = int(rng.integers(3)), rng.random() < 0.2
    size = rng.uniform(0.38, 0.55)

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
                canvas.polygon(disc(cx, cy + (i - 1) * long * 0.62, half * 0.62), glow)
        if carries in ("sign", "both"):
            cx, cy = camera.project(x, head - (1.5 if carries == "both" else 0.0), z)
            _sign(canvas, cx, cy, max(size * metre, 0.026), form, color if back else board, plain=back)

    scene.later(z, paint)


def _sign(canvas: Canvas, x: float, y: float, radius: float, form: int, color: object, *, plain: bool) -> None:
    outline = [
        disc(x, y, radius),
        np.array([(x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8), (x, y - radius)]),
        rectangle(x - radius, y - radius, x + radius, y + radius),
    ][form]
    canvas.polygon(outline, color, ID["traffic sign"], SMOOTH)
    if not plain:
        inner = (outline - (x, y)) * 0.6 + (x, y)
        canvas.polygon(inner, (228, 226, 220) if sum(color) < 500 else (70, 72, 80))


def _shadows(scene: _Street) -> None:
    """Shadows of houses and trees on the ground: darker bands that no label knows of."""
    for _ in range(scene.rng.integers(0, 4)):
        x, z = scene.rng.uniform(-8, 4), scene.rng.uniform(3, 14)
        width, depth, slant = scene.rng.uniform(2, 7), scene.rng.uniform(1, 4), scene.rng.uniform(-2, 2)
        band = scene.camera.project([x, x + width, x + width + slant, x + slant], 0.0, [z, z, z + depth, z + depth])
        scene.canvas.darken(band, scene.rng.uniform(0.55, 0.8))


def _own_car(scene: _Street) -> None:
    """The camera's own car at the lower edge and the border that rectification leaves: both unlabelled."""
    canvas, rng = scene.canvas, scene.rng
    if rng.random() < 0.7:
        bonnet = disc(canvas.aspect * rng.uniform(0.45, 0.55), 1.02, canvas.aspect * 0.42, rng.uniform(0.05, 0.1))
        canvas.polygon(bonnet, shade(PAINTS[rng.integers(len(PAINTS))], 0.5), EGO_VEHICLE, SMOOTH)
    border = 0.006
    for outline in (
        rectangle(0, 0, border, 1),
        rectangle(canvas.aspect - border, 0, canvas.aspect, 1),
        rectangle(0, 0, canvas.aspect, border),
    ):
        canvas.polygon(outline, (0, 0, 0), RECTIFICATION_BORDER, SMOOTH)
