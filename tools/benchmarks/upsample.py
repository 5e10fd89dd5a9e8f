"""Upsampling in training, forward and backward: MatrixUpsample against Upsample, the deconvolution.

    python tools/benchmarks/upsample.py [--shape 8x19x16x32] [--factor 8] [--repeats 15]

`shape` is that of the logits (N, classes, h, w); the upsampled logits are `factor` times as high and wide.
"""

from typing import Callable

import click
from alternating import measure, ratio, table

from gluon_confseg.backend import mx
from gluon_confseg.nn import MatrixUpsample, Upsample

MATRICES, DECONVOLUTION = "matrix products", "deconvolution"


@click.command()
@click.option("--shape", default="8x19x16x32", show_default=True)
@click.option("--factor", default=8, show_default=True)
@click.option("--repeats", default=15, show_default=True)
def main(shape: str, factor: int, repeats: int) -> None:
    number, classes, height, width = map(int, shape.split("x"))
    logits = mx.nd.random.normal(shape=(number, classes, height, width))
    logits.attach_grad()
    size = (factor * height, factor * width)
    pull = mx.nd.random.normal(shape=(number, classes, *size))
    plain, fast = Upsample(classes, factor), MatrixUpsample(factor)
    plain.initialize()
    plain.hybridize(static_alloc=True)

    def step(upsample: mx.gluon.Block, like: object) -> Callable[[], None]:
        def run() -> None:
            with mx.autograd.record():
                upsampled = upsample(logits, like)
            upsampled.backward(pull)
            mx.nd.waitall()

        return run

    seconds = measure({MATRICES: step(fast, size), DECONVOLUTION: step(plain, pull)}, repeats)
    print(f"{shape}, {factor} times as high and wide, forward and backward\n")
    print(table(seconds, MATRICES))
    print(f"\nthe deconvolution takes {ratio(seconds, DECONVOLUTION, MATRICES):.1f} times as long")


if __name__ == "__main__":
    main()
