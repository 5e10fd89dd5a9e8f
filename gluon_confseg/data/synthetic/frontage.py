"""What lines a street: buildings, walls, fences, hedges and trees."""

import numpy as np

from .canvas import BRICK, FIBRE, FOLIAGE, GRAIN, SMOOTH, circle, shade
from .layout import BOARDS, CONCRETE, FAR, ID, MASONRY, METAL, Street
from .vehicles import GLASS, PAINTS


def frontage(scene: Street, side: int) -> None:
    """What lines the street on one side, and what stands behind it."""
    rng = scene.rng
    line = side * (scene.half + scene.pavement)
    backdrop = rng.choice(["building", "trees", "nothing"], p=[0.55, 0.25, 0.2])
    if backdrop == "trees":
        for z in np.linspace(FAR, 14, 7):
            _tree(scene, line + side * rng.uniform(4, 8), z, 900 + z)
    z = 3.0
    while z < FAR:
        end = min(FAR, z + rng.uniform(5, 13) * (1 if z < 20 else 2))
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


def _street_end(scene: Street, line: float, side: int) -> None:
    """Close the view: a facade, wall or fence across the end of the street."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    kind = rng.choice(["building", "wall", "fence", "vegetation"], p=[0.5, 0.15, 0.15, 0.2])
    height = rng.uniform(6, 18) if kind == "building" else rng.uniform(3, 8)
    color = np.array((84, 100, 62)) if kind == "vegetation" else scene.color(MASONRY)
    texture = FOLIAGE if kind == "vegetation" else GRAIN
    outline = camera.project(
        [line * 1.5, line * 1.5, -side, -side], [0, height, height * rng.uniform(0.6, 1.2), 0], FAR
    )
    scene.later(1500, lambda: canvas.polygon(outline, color, ID[kind], texture))


def _building(scene: Street, x: float, side: int, near: float, far: float, depth: float) -> None:
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    height = rng.uniform(4.5, 17)
    color, texture = scene.color(MASONRY), int(rng.choice([GRAIN, BRICK, SMOOTH], p=[0.55, 0.2, 0.25]))
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


def _barrier(scene: Street, x: float, near: float, far: float, height: float, kind: str) -> None:
    """A wall, a fence (railings or boards) or a hedge along the street."""
    canvas, camera, rng = scene.canvas, scene.camera, scene.rng
    open_work = kind == "fence" and rng.random() < 0.5
    texture = {
        "wall": int(rng.choice([GRAIN, BRICK], p=[0.25, 0.75])),
        "fence": int(rng.choice([FIBRE, GRAIN], p=[0.75, 0.25])),
        "vegetation": FOLIAGE,
    }[kind]
    # half of the walls and closed fences have a colour of their own, the others the houses'
    own = METAL if open_work else BOARDS if kind == "fence" else CONCRETE
    color = scene.color(own if open_work or rng.random() < 0.5 else MASONRY)
    if kind == "vegetation":
        color = np.array((76, 98, 56)) * rng.uniform(0.7, 1.3)
    spacing = rng.uniform(0.3, 0.6) if open_work else rng.uniform(1.2, 2.5)

    def paint() -> None:
        depths = [near, far, far, near]
        outline = camera.project(x, [0, 0, height, height], depths)
        canvas.polygon(outline, None if open_work else color, ID[kind], texture)
        dark = shade(color, 1.0 if open_work else 0.6)
        if kind == "vegetation":
            return
        canvas.details(
            [camera.project(x, [height * 0.93, height * 0.93, height, height], depths)],
            shade(color, 1.15 if kind == "wall" else 0.85),
        )
        if kind == "fence":
            posts = np.arange(near, min(far, 30.0), spacing)
            bar = 0.1 if open_work else 0.15
            canvas.details(
                camera.project(x, height * np.array([0, 0, 1, 1]), posts[:, None] + bar * np.array([0, 1, 1, 0])), dark
            )
            canvas.details(
                [camera.project(x, [height * 0.15, height * 0.15, height * 0.25, height * 0.25], depths)], dark
            )

    scene.later(far, paint)


def _tree(scene: Street, x: float, z: float, depth: float) -> None:
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
            canvas.polygon(
                circle(cx, cy, size * metre), shade(green, 1.0 + 0.12 * dy / crown), ID["vegetation"], FOLIAGE
            )

    scene.later(depth, paint)
