"""From stride-8 scores to the label map of the image: the predictor's way against resizing all scores at once.

    python tools/benchmarks/label_map.py [--size 1024x2048] [--repeats 9]

The predictor upsamples and takes the largest strip by strip. It runs here with an encoder that only gives ready
scores; normalising the image, which it does too, is a case of its own. Wanted: 3 times as fast as BilinearResize2D of
all scores and argmax, with the same labels; and, where the probabilities of the image and the flipped one are added,
as BilinearResize2D, softmax, sum and argmax.
"""

import click
import numpy as np
from alternating import measure, ratio, table

from gluon_confseg.backend import mx
from gluon_confseg.data.transforms import normalize
from gluon_confseg.inference import Manner, Predictor, View
from gluon_confseg.options import parse_size

CLASSES, STRIDE = 19, 8
OURS, RESIZED, NORMALIZED = "predictor", "BilinearResize2D, argmax", "normalising the image"
OURS_FLIP, RESIZED_FLIP = "predictor, flip", "BilinearResize2D, softmax, sum, argmax"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Ready(mx.gluon.Block):
    """An encoder whose features are given scores."""

    output_stride = STRIDE

    def __init__(self, scores: mx.nd.NDArray):
        super().__init__()
        self._scores = scores

    def forward(self, _):
        return [self._scores]


class Same(mx.gluon.HybridBlock):
    """A subnet that gives its input."""

    num_outputs = CLASSES

    def inputs(self, features):
        return list(features)

    def hybrid_forward(self, F, x):
        return F.identity(x)


@click.command()
@click.option("--size", default="1024x2048", show_default=True)
@click.option("--repeats", default=9, show_default=True)
def main(size: str, repeats: int) -> None:
    height, width = parse_size(size)
    rng = np.random.default_rng(0)
    scores = mx.nd.array(rng.normal(size=(1, CLASSES, -(-height // STRIDE), -(-width // STRIDE))))
    image = rng.integers(0, 256, (height, width, 3)).astype("uint8")
    settings = {"scale": 1.0, "mean": MEAN, "std": STD, "device": mx.cpu()}
    both = mx.nd.concat(scores, scores.flip(axis=3), dim=0)
    subnets, views = {"scores": Same()}, {"scores": View(("scores",))}
    predictor = Predictor(Ready(scores), subnets, views, **settings)
    flipping = Predictor(Ready(both), subnets, views, manner=Manner(flip=True), **settings)

    def upsampled() -> mx.nd.NDArray:
        return mx.nd.contrib.BilinearResize2D(scores, height=height, width=width, align_corners=False)

    def resized() -> np.ndarray:
        return upsampled().argmax(axis=1).astype("uint8").asnumpy()[0]

    def resized_flip() -> np.ndarray:
        total = upsampled().softmax(axis=1) + upsampled().softmax(axis=1)
        return total.argmax(axis=1).astype("uint8").asnumpy()[0]

    def normalized() -> None:
        mx.nd.array(normalize(image, MEAN, STD)[None]).wait_to_read()

    cases = {
        OURS: lambda: predictor(image),
        RESIZED: resized,
        NORMALIZED: normalized,
        OURS_FLIP: lambda: flipping(image),
        RESIZED_FLIP: resized_flip,
    }
    seconds = measure(cases, repeats)
    print(f"{size}, {CLASSES} classes\n")
    print(table(seconds, OURS))
    for ours, theirs in ((OURS, RESIZED), (OURS_FLIP, RESIZED_FLIP)):
        differ = int((cases[ours]()["scores"] != cases[theirs]()).sum())
        times = ratio(seconds, theirs, ours)
        print(f"\n{times:.2f} times as fast as {theirs} (wanted: 3); {differ} of {height * width} labels differ")


if __name__ == "__main__":
    main()
