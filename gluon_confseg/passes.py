"""A batch in parts: over devices, and, where memory is short, over passes whose gradients are added up."""

from itertools import zip_longest
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .backend import mx

nd = mx.nd


def split_batch(
    batch_size: int, devices: Sequence[mx.Context], images_per_pass: Optional[int]
) -> List[List[Tuple[mx.Context, slice]]]:
    """The passes of a batch: each has a slice of the batch for each device, of at most `images_per_pass` images.

    A device with a smaller share may sit out the last pass.
    """
    pieces = []
    for share, ctx in zip(np.array_split(np.arange(batch_size), len(devices)), devices):
        count = 1 if images_per_pass is None else -(-len(share) // images_per_pass)
        parts = np.array_split(share, max(count, 1))
        pieces.append([(ctx, slice(int(part[0]), int(part[-1]) + 1)) for part in parts if len(part)])
    return [[piece for piece in row if piece is not None] for row in zip_longest(*pieces)]


def describe_batch(batch_size: int, devices: Sequence[mx.Context], images_per_pass: Optional[int]) -> str:
    """As in "batch 16 = 4 devices x 2 passes x 2 images"."""
    passes = split_batch(batch_size, devices, images_per_pass)
    most = max(part.stop - part.start for parts in passes for _, part in parts)
    numbers = ((len(devices), "device", "s"), (len(passes), "pass", "es"), (most, "image", "s"))
    *first, last = (f"{n} {word}{plural if n > 1 else ''}" for n, word, plural in numbers)
    equal = batch_size == len(devices) * len(passes) * most
    return f"batch {batch_size} = {' x '.join(first)} x {'' if equal else 'up to '}{last}"


class GradientSums:
    """Adds up the gradients of a device's passes. Not by grad_req "add", which every operator does for itself.

    Takes as much memory as the parameters, on each device.
    """

    def __init__(self, parameters: Sequence[mx.gluon.Parameter]):
        self._parameters = parameters
        self._sums: Dict[mx.Context, List[nd.NDArray]] = {}

    def add(self, ctx: mx.Context) -> None:
        """Add the gradients that a pass left on `ctx`."""
        gradients = [parameter.grad(ctx) for parameter in self._parameters]
        if ctx not in self._sums:
            self._sums[ctx] = [gradient.copy() for gradient in gradients]
            return
        for total, gradient in zip(self._sums[ctx], gradients):
            total += gradient

    def store(self) -> None:
        """Put the sums where the trainers look for gradients."""
        for ctx, totals in self._sums.items():
            for parameter, total in zip(self._parameters, totals):
                parameter.grad(ctx)[:] = total
