"""How the cost of labelling images grows: with their size, the classes, the groups, the contexts and the images.

    OMP_NUM_THREADS=1 python tools/benchmarks/growth.py [--repeats 5] [--output FOLDER]

The small encoder with 128-channel heads at random weights; where nothing else is said 512x1024, 19 classes, 3 groups,
one image on mx.cpu(0). Prints a table per question, and writes growth.json and growth.png. Peaks of memory are those
of processes of their own.
"""

import json
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import click
import matplotlib
import numpy as np
from alternating import measure
from memory import peak, peak_of
from tabulate import tabulate

from gluon_confseg.backend import mx
from gluon_confseg.groups import ClassGroup
from gluon_confseg.inference import Predictor, View, label_all
from gluon_confseg.nn import Fusion, Subnet, get_encoder

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  after the choice of what draws

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS, DILATION, GROUP = 128, 4, 3
SIZE, CLASSES, GROUPS = (512, 1024), 19, 3
PIXELS, MEMORY = "pixels, millions", "images (peak memory)"
VALUES: Dict[str, Tuple[float, ...]] = {  # of the x axis of each question
    PIXELS: (0.03125, 0.125, 0.5, 2.0),
    "classes": (5, 19, 50, 150),
    "groups": (0, 1, 2, 4, 6),
    "images": (2, 4, 8, 16),
    "contexts": (1, 2),
    MEMORY: (2, 8, 32),
}
ON_TWO = 8  # images that one and two contexts share


def predictor(classes: int = CLASSES, groups: int = GROUPS, index: int = 0) -> Predictor:
    """On mx.cpu(index). Groups of three neighbouring classes, one after another; past the last class from the first."""
    starts = [GROUP * number % (classes - GROUP + 1) for number in range(groups)]
    found = [ClassGroup(tuple(range(start, start + GROUP)), "made up") for start in starts]
    device = mx.cpu(index)
    encoder = get_encoder("small", frozen_batchnorm=True, ctx=[device])
    encoder.hybridize()
    heads = {}
    for number, outputs in enumerate((classes, *[GROUP + 1] * groups)):
        head = Subnet(outputs, channels=CHANNELS, dilation=DILATION)
        head.initialize(mx.init.MSRAPrelu(slope=0), ctx=[device])
        head(*head.inputs(encoder(mx.nd.zeros((1, 3, 32, 32), ctx=device))))
        heads[str(number)] = head
    fusion = Fusion(found, classes)
    fusion.initialize(ctx=[device])
    return Predictor(encoder, heads, {"fused": View(tuple(heads), fusion)}, scale=1, mean=MEAN, std=STD, device=device)


def images(number: int, size: Tuple[int, int]) -> Iterator[Tuple[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    return ((index, rng.integers(0, 256, (*size, 3)).astype("uint8")) for index in range(number))


def label(predictors: List[Predictor], number: int, size: Tuple[int, int]) -> None:
    for _ in label_all(predictors, images(number, size)):
        pass


def scaled(factor: float) -> Tuple[int, int]:
    return tuple(max(32, round(side * factor) // 8 * 8) for side in SIZE)


def cases(question: str, factor: float) -> Dict[float, Callable[[], None]]:
    """What is measured, by its x value; `factor` shrinks the sides of all images."""
    size = scaled(factor)
    if question == PIXELS:
        one, million = predictor(), SIZE[0] * SIZE[1] / 2**20
        made = {value: ([one], 1, scaled(factor * (value / million) ** 0.5)) for value in VALUES[question]}
    elif question == "classes":
        made = {value: ([predictor(classes=int(value))], 1, size) for value in VALUES[question]}
    elif question == "groups":
        made = {value: ([predictor(groups=int(value))], 1, size) for value in VALUES[question]}
    elif question == "images":
        one = predictor()
        made = {value: ([one], int(value), size) for value in VALUES[question]}
    else:
        both = [predictor(index=index) for index in range(2)]
        made = {value: (both[: int(value)], ON_TWO, size) for value in VALUES[question]}
    return {value: partial(label, *arguments) for value, arguments in made.items()}


def draw(path: Path, found: Dict[str, Dict[str, List[float]]]) -> None:
    """A panel per question, from zero; dotted: in proportion to pixels or images, and the inverse of the contexts."""
    figure, panels = plt.subplots(2, 3, figsize=(9, 5), constrained_layout=True)
    for (question, points), axes in zip(found.items(), panels.flat):
        x, y = points["x"], points["median"]
        if question in (PIXELS, "images"):
            axes.plot([0, x[-1]], [0, y[-1]], ":", color="0.6")
        if question == "contexts":
            axes.plot(x, [y[0] / value for value in x], ":", color="0.6")
            axes.set_xticks(x)
        axes.plot(x, y, "o-", color="tab:blue")
        of = {"images": "", "contexts": f", {ON_TWO} images", MEMORY: ""}.get(question, ", one image")
        axes.set(xlabel=question, ylabel="MB" if question == MEMORY else f"seconds{of}")
        axes.set(xlim=(0, 1.05 * x[-1]), ylim=(0, 1.15 * max(y)))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--factor", default=1.0, show_default=True, help="Shrinks the sides of all images.")
@click.option("--output", default=".", type=click.Path(path_type=Path), help="A folder for growth.json, growth.png.")
@click.option("--memory-of", hidden=True, type=int)
def main(repeats: int, factor: float, output: Path, memory_of: int) -> None:
    if memory_of:
        label([predictor()], memory_of, scaled(factor))
        print(peak())
        return
    found: Dict[str, Dict[str, List[float]]] = {}
    for question, values in VALUES.items():
        if question == MEMORY:
            arguments = ("--factor", str(factor), "--memory-of")
            spread = [[peak_of(__file__, (*arguments, str(number))) / 2**20] for number in values]
        else:
            spread = list(measure(cases(question, factor), repeats).values())
        points = {"x": list(values), "median": [float(np.median(s)) for s in spread]}
        points.update({"lowest": list(map(min, spread)), "highest": list(map(max, spread))})
        found[question] = points
        unit = "MB" if question == MEMORY else "s"
        rows = [[f"{x:g}", *(f"{value:.4g}" for value in (m, low, high))] for x, m, low, high in zip(*points.values())]
        headers = [question, f"median {unit}", "lowest", "highest"]
        print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True), end="\n\n", flush=True)
    (output / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(output / "growth.png", found)


if __name__ == "__main__":
    main()
