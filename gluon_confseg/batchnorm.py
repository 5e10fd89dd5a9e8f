"""BatchNorm's running statistics: whether they move, and their mean over devices and workers."""

import hashlib
from typing import Sequence

import numpy as np

from .backend import mx
from .workers import Job


def average_statistics(blocks: Sequence[mx.gluon.Block], job: Job) -> None:
    """Make running statistics, which each device keeps for itself, their mean over all devices of all workers.

    All workers have the same number of devices, or those of a worker with fewer count for more.
    """
    parameters = [p for block in blocks for p in block.collect_params(".*running_(mean|var)").values()]
    means = []
    for parameter in parameters:
        values = parameter.list_data()
        means.append(np.mean([value.asnumpy() for value in values], axis=0))
        if len(values) > 1:
            parameter.set_data(mx.nd.array(means[-1], dtype=parameter.dtype))
    digests = job.gather(hashlib.sha256(b"".join(mean.tobytes() for mean in means)).hexdigest())
    if len(set(digests)) > 1:  # those that are frozen stay as they are, to the last bit
        for parameter, mean in zip(parameters, means):
            parameter.set_data(mx.nd.array(job.total(mean) / job.count, dtype=parameter.dtype))


def has_moving_statistics(block: mx.gluon.Block) -> bool:
    """Whether a BatchNorm in it takes its statistics from the images of a pass."""
    if isinstance(block, mx.gluon.nn.BatchNorm):
        return not block._kwargs["use_global_stats"]
    return any(map(has_moving_statistics, block._children.values()))
