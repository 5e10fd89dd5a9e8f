"""The workers of a job on one machine or many: who this one is, sums, barriers. Nothing else knows of MXNet's kvstore.

A worker is a process that trains and evaluates on its share of the images. `Job` is the form for one process, `joined`
gives that or a place among several. All workers of a job call the same methods in the same order; an exchange waits
for the last one.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Sequence, TypeVar

import numpy as np

from .backend import mx
from .errors import ConfsegError

nd = mx.nd

DISTRIBUTED = ("dist_sync", "dist_device_sync")
KVSTORES = ("local", *DISTRIBUTED)
HOW_TO_LAUNCH = "confseg launch -n 2 -s 1 confseg run NAME --kvstore {}; see docs/distributed.md"
_LAUNCHED = ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
_LIMB, _LIMBS = 12, 6  # bits of a count that are summed at a time, and how many such parts 63 bits have
_MOST_WORKERS = 2 ** (24 - _LIMB)  # whose limbs' sums float32 holds exactly
_COURTESY = 3.0  # seconds in which worker 0 may say what went wrong, where it went wrong for all
_PATIENCE = 60.0  # seconds that the start may take without a word

T = TypeVar("T")


class Job:
    """A job of one process: every sum has one term. `rank` counts from 0; worker 0 writes, logs and prints."""

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes, logs and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> List[T]:
        """This worker's part of `items`, in order: each item is one worker's, and none has two more than another."""
        return [items[i] for i in np.array_split(np.arange(len(items)), self.count)[self.rank]]

    def sum_gradients(self, trainers: Sequence[mx.gluon.Trainer]) -> None:
        """Replace all gradients by their sums over all devices of all workers."""
        for trainer in trainers:
            trainer.allreduce_grads()

    def same_start(self, trainers: Sequence[mx.gluon.Trainer]) -> None:
        """Give all workers the parameters of worker 0."""

    def total(self, values: np.ndarray) -> np.ndarray:
        """float32, any shape: the sum over the workers, element by element, in float32."""
        return values

    def total_counts(self, counts: np.ndarray) -> np.ndarray:
        """int64 >= 0, any shape: the exact sum over the workers. ConfsegError where it is 2^63 or more."""
        return counts

    def gather(self, value: Any) -> List[Any]:
        """The JSON-able values of all workers, by rank."""
        return [value]

    def barrier(self) -> None:
        """Wait until all workers are here."""

    def tell(self, value: Any) -> Any:
        """Worker 0's value (JSON-able), on all workers."""
        return self.gather(value if self.first else None)[0]

    def require_same(self, what: str, value: Any, advice: str) -> None:
        """Raise ConfsegError, on all workers, where `value` (JSON-able) is not the same on all of them."""
        if self.count == 1:
            return
        digests = self.gather(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest())
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise ConfsegError(f"{what} of worker {', '.join(others)}: not what worker 0 has; {advice}")

    def require_same_parameters(self, trainers: Sequence[mx.gluon.Trainer]) -> None:
        """Raise ConfsegError where workers, which take the same steps from the same start, have come apart."""
        if self.count == 1:
            return
        parameters = [parameter for trainer in trainers for parameter in trainer._params]
        values = (parameter.data(parameter.list_ctx()[0]).asnumpy().tobytes() for parameter in parameters)
        digests = [hashlib.sha256(value).hexdigest() for value in values]
        self.require_same("the parameters", digests, "use machines of one kind with the same installation")


ALONE = Job()


class _SharedJob(Job):
    """A job of several processes, over a distributed kvstore whose servers add up what the workers push.

    Without an optimiser on the servers, a key holds the sum of what all workers pushed last. The kvstore keeps pushed
    CPU arrays and writes pulled sums into them: what is pushed here is either made for it or wants to be replaced.
    Only float32 is exchanged: MXNet 1.9.1's servers refuse integers, and float64 came back exactly from some of them,
    rounded to float32, or never, from others.
    """

    def __init__(self, kvstore: Any):
        self._kvstore = kvstore
        self.rank, self.count = kvstore.rank, kvstore.num_workers
        if self.count > _MOST_WORKERS:
            raise ConfsegError(
                f"{self.count} workers: counts are summed exactly for up to {_MOST_WORKERS}; start fewer"
            )
        self._keys: Dict[Any, str] = {}  # made in the same order, and so the same, on all workers

    def sum_gradients(self, trainers: Sequence[mx.gluon.Trainer]) -> None:
        for trainer in trainers:
            for index, parameter in enumerate(trainer._params):
                if parameter.grad_req != "null":
                    gradients = parameter.list_grad()
                    key = self._key(parameter, gradients[0])
                    self._kvstore.pushpull(key, gradients, priority=-index)

    def same_start(self, trainers: Sequence[mx.gluon.Trainer]) -> None:
        for trainer in trainers:
            for parameter in trainer._params:
                value = parameter.data(parameter.list_ctx()[0]).asnumpy()
                total = self.total(value if self.first else np.zeros_like(value))  # the other terms are 0
                parameter.set_data(nd.array(total, dtype=parameter.dtype))

    def total(self, values: np.ndarray) -> np.ndarray:
        array = nd.array(values.reshape(-1), dtype="float32", ctx=mx.cpu())
        self._kvstore.pushpull(self._key(array.shape, array), array)
        return array.asnumpy().reshape(values.shape)

    def total_counts(self, counts: np.ndarray) -> np.ndarray:
        shifts = np.arange(0, _LIMB * _LIMBS, _LIMB).reshape(-1, *[1] * counts.ndim)
        # sums of up to 2^12 limbs below 2^12 are below 2^24: float32 holds them exactly
        sums = self.total((counts >> shifts & (2**_LIMB - 1)).astype(np.float32)).astype(np.int64)
        for limb in range(_LIMBS - 1):  # carry what exceeds a limb
            sums[limb + 1] += sums[limb] >> _LIMB
            sums[limb] &= 2**_LIMB - 1
        if np.any(sums[-1] >= 2 ** (63 - _LIMB * (_LIMBS - 1))):
            raise ConfsegError("confusion counts add up to 2^63 pixels or more; these are not counts of pixels")
        return (sums << shifts).sum(axis=0)

    def gather(self, value: Any) -> List[Any]:
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self.total_counts(np.where(np.arange(self.count) == self.rank, len(text), 0))
        width = 1 << int(max(lengths) - 1).bit_length()  # few different sizes: each has a place on the servers
        rows = np.zeros((self.count, width), np.float32)
        rows[self.rank, : len(text)] = text
        rows = self.total(rows).astype(np.uint8)  # every other term is 0
        return [json.loads(row[:length].tobytes().decode()) for row, length in zip(rows, lengths)]

    def barrier(self) -> None:
        self._kvstore._barrier()

    def leave(self) -> None:
        """Let this process end without the others, for whom it would wait."""
        mx.base.check_call(mx.base._LIB.MXKVStoreSetBarrierBeforeExit(self._kvstore.handle, 0))

    def _key(self, of: Any, like: nd.NDArray) -> str:
        if of not in self._keys:
            self._keys[of] = str(len(self._keys))
            self._kvstore.init(self._keys[of], nd.zeros(like.shape, dtype=like.dtype, ctx=mx.cpu()))
        return self._keys[of]


@contextlib.contextmanager
def joined(kvstore: str) -> Iterator[Job]:
    """This process's place in a job: alone ("local"), or, where a launcher started it, among the other workers.

    Raises ConfsegError for another kvstore and where no launcher, or one that was not meant, started the process. An
    error that leaves the block ends this worker without waiting for the others: the launcher ends them.
    """
    if kvstore not in KVSTORES:
        raise ConfsegError(f"--kvstore {kvstore}: choose one of {', '.join(KVSTORES)}")
    launched = os.environ.get("DMLC_ROLE")
    if kvstore == "local":
        if launched:
            raise ConfsegError(f"a launcher started this, for several workers: give --kvstore {DISTRIBUTED[0]} as well")
        yield Job()
        return
    missing = [name for name in _LAUNCHED if not os.environ.get(name)]
    if missing:
        how = HOW_TO_LAUNCH.format(kvstore)
        raise ConfsegError(f"--kvstore {kvstore}: no launcher started this ({missing[0]} is not set): {how}")
    job = _join(kvstore)
    try:
        yield job
    except BaseException as error:
        job.leave()
        if job.first or not isinstance(error, ConfsegError):
            raise
        time.sleep(_COURTESY)
        raise ConfsegError(f"worker {job.rank}: {error}") from error


def _join(kvstore: str) -> _SharedJob:
    awaited = "{DMLC_NUM_WORKER} workers and {DMLC_NUM_SERVER} servers".format(**os.environ)
    line = f"confseg: waiting for {awaited} to reach {os.environ['DMLC_PS_ROOT_URI']}; does a firewall stop them?"
    reminder = threading.Timer(_PATIENCE, print, (line,), {"file": sys.stderr})
    reminder.daemon = True
    reminder.start()
    try:
        return _SharedJob(mx.kv.create(kvstore))
    finally:
        reminder.cancel()
