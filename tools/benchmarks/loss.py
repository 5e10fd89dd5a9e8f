"""The losses, forward and backward, against Gluon's SoftmaxCrossEntropyLoss.

    python tools/benchmarks/loss.py [--shape 4x19x256x512] [--repeats 9]

Random logits and labels, float32. Memory: what each process's peak exceeds that of one that holds only the arrays.
Wanted for the paper's loss: time at most 1.5, memory at most 2 of Gluon's.
"""

from typing import Callable, Dict

import click
import numpy as np
from alternating import measure, table
from memory import peak, peak_of

from gluon_confseg.backend import mx
from gluon_confseg.nn import ConfusionCrossEntropy, PixelCrossEntropy

GLUON, OURS, PAPERS = "gluon.loss.SoftmaxCrossEntropyLoss", "PixelCrossEntropy", "ConfusionCrossEntropy"
NOTHING = "nothing"


def case(name: str, shape: str) -> Callable[[], None]:
    """One forward and backward pass of a loss; waits for its end."""
    samples, classes, height, width = map(int, shape.split("x"))
    # drawn in place: copies from NumPy would raise the peak that the losses are compared by
    logits = mx.nd.random.normal(shape=(samples, classes, height, width))
    label = mx.nd.random.randint(0, classes, shape=(samples, height, width)).astype("float32")
    logits.attach_grad()
    mx.nd.waitall()
    if name == NOTHING:
        return lambda: None
    weights = np.random.default_rng(0).random((classes, classes)) + 5 * np.eye(classes)
    weights /= weights.sum(axis=1, keepdims=True)
    if name == GLUON:
        loss = mx.gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    else:
        loss = PixelCrossEntropy(classes) if name == OURS else ConfusionCrossEntropy(weights)
    loss.initialize()
    loss.hybridize(static_alloc=True)

    def run() -> None:
        with mx.autograd.record():
            value = loss(logits, label)
        value.backward()
        mx.nd.waitall()

    return run


@click.command()
@click.option("--shape", default="4x19x256x512", show_default=True)
@click.option("--repeats", default=9, show_default=True)
@click.option("--memory-of", hidden=True)
def main(shape: str, repeats: int, memory_of: str) -> None:
    if memory_of:
        run = case(memory_of, shape)
        for _ in range(3):
            run()
        print(peak())
        return
    print(f"{shape}, forward and backward\n")
    cases: Dict[str, Callable[[], None]] = {name: case(name, shape) for name in (GLUON, OURS, PAPERS)}
    print(table(measure(cases, repeats), GLUON))
    names = (NOTHING, *cases)
    peaks = {name: peak_of(__file__, ("--shape", shape, "--memory-of", name)) / 2**20 for name in names}
    used = {name: peaks[name] - peaks[NOTHING] for name in cases}
    print("\npeak memory beyond the arrays:", ", ".join(f"{name} {value:.0f} MB" for name, value in used.items()))
    print(f"memory of the paper's loss over Gluon's: {used[PAPERS] / used[GLUON]:.2f} (wanted: at most 2)")


if __name__ == "__main__":
    main()
