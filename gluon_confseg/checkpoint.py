"""One training state, saved atomically and restored exactly: parameters, optimiser state, how far it got."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from pydantic import Field, NonNegativeFloat, TypeAdapter
from typing_extensions import Annotated, TypedDict

from .backend import mx, settle
from .errors import ConfsegError
from .files import explained, read_npz, write_npz
from .plain_data import parse_json

Trainers = Sequence[mx.gluon.Trainer]

_log = logging.getLogger(__name__)


_Number = Annotated[int, Field(ge=0, lt=2**31)]


class _Scale(TypedDict):
    value: Annotated[float, Field(gt=0)]
    steady: _Number


class _Metrics(TypedDict):
    losses: Dict[str, float]
    counts: Dict[str, List[List[int]]]
    norms: Dict[str, float]
    samples: _Number


class _Meta(TypedDict, total=False):
    """What `training.fit` puts into `meta`."""

    epoch: _Number
    update: _Number
    seconds: NonNegativeFloat
    loss_scales: List[_Scale]
    metrics: Optional[_Metrics]
    course: Dict[str, Any]


class Kept:
    """The newest checkpoint of a training, at `path`, and the one before it, previous-NAME; older ones are gone."""

    def __init__(self, path: Path, trainers: Trainers):
        self._path, self._trainers = path, trainers
        self._damaged = False  # the newest one is, and must not replace the one before it

    def load(self) -> Dict[str, Any]:
        """Restore the newest one that is whole into trainers over the same parameters; returns its `meta`, or {}.

        A damaged one is logged. Raises ConfsegError where one belongs to another network.
        """
        for trainer in self._trainers:
            _connect(trainer)
        for path in newest_first(self._path):
            try:
                arrays, meta = _read(path)
            except ConfsegError as error:
                self._damaged = self._damaged or path == self._path
                _log.warning("%s; falling back to the checkpoint before it", error)
                continue
            _restore(path, self._trainers, arrays)
            return meta
        if self._damaged:
            _log.warning("%s: no checkpoint is whole; the training starts over", self._path)
        return {}

    def save(self, meta: Dict[str, Any]) -> None:
        """Write parameters and momenta of all trainers, and `meta` (JSON-able), to one npz file.

        Raises ConfsegError where it cannot be written, and for a parameter that is not finite.
        """
        arrays = _collect(self._trainers)
        if self._path.exists() and not self._damaged:
            with explained(self._path):  # before writing: so the disk needs room for two, not for three
                self._path.replace(_previous(self._path))
        write_npz(self._path, {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays})
        self._damaged = False


def newest_first(path: Path) -> List[Path]:
    """The checkpoints that there are of a training whose newest is, or was, at `path`."""
    return [each for each in (path, _previous(path)) if each.exists()]


def newest_meta(path: Path) -> Dict[str, Any]:
    """The `meta` of the newest checkpoint that is whole; empty where there is none."""
    for each in newest_first(path):
        try:
            return _meta(each, read_npz(each, ["meta"]))
        except ConfsegError:
            continue
    return {}


def _previous(path: Path) -> Path:
    return path.with_name(f"previous-{path.name}")


def _read(path: Path) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    arrays = read_npz(path)
    return arrays, _meta(path, arrays)


def _meta(path: Path, arrays: Dict[str, np.ndarray]) -> Dict[str, Any]:
    try:
        meta = parse_json(arrays.pop("meta").tobytes().decode())
        TypeAdapter(_Meta).validate_python(meta, strict=True)
        return meta
    except (KeyError, TypeError, ValueError) as error:
        raise ConfsegError(f"{path} is no checkpoint; delete it and run again") from error


def _collect(trainers: Trainers) -> Dict[str, np.ndarray]:
    """By "TRAINER.PARAMETER.value" and ".momentum"; ".value1" and so on where the other devices' values differ."""
    settle()
    arrays = {}
    for number, trainer in enumerate(trainers):
        for index, parameter in enumerate(trainer._params):
            key = f"{number}.{index}"
            for copy, value in enumerate(_copies(parameter)):
                arrays[f"{key}.value{copy or ''}"] = value
                if not np.isfinite(value).all():
                    raise ConfsegError(f"{parameter.name} is not finite after the last update; lower the learning rate")
        for index, state in _momenta(trainer).items():
            arrays[f"{number}.{index}.momentum"] = state.asnumpy()
    return arrays


def _copies(parameter: mx.gluon.Parameter) -> List[np.ndarray]:
    """The values on each device where they differ, as BatchNorm's statistics do within an epoch, else the first's."""
    devices = parameter.list_ctx() if parameter.grad_req == "null" else parameter.list_ctx()[:1]
    first, *others = (parameter.data(ctx).asnumpy() for ctx in devices)
    return [first, *others] if any((first != other).any() for other in others) else [first]


def _restore(path: Path, trainers: Trainers, arrays: Dict[str, np.ndarray]) -> None:
    wanted = [
        (f"{number}.{index}.value", parameter)
        for number, trainer in enumerate(trainers)
        for index, parameter in enumerate(trainer._params)
    ]
    for key, parameter in wanted:
        others = [key.replace(".value", ".momentum"), *(f"{key}{copy}" for copy in range(1, len(parameter.list_ctx())))]
        found = [arrays.get(key), *(arrays[name] for name in others if name in arrays)]
        if not all(_fits(array, parameter) for array in found):
            raise ConfsegError(f"{path} holds another network ({parameter.name} differs); delete it and run again")
    for key, parameter in wanted:
        parameter.set_data(mx.nd.array(arrays[key], dtype=parameter.dtype))
        for copy, ctx in enumerate(parameter.list_ctx()):
            if copy and f"{key}{copy}" in arrays:
                parameter.data(ctx)[:] = mx.nd.array(arrays[f"{key}{copy}"], ctx=ctx, dtype=parameter.dtype)
    for number, trainer in enumerate(trainers):
        _restore_momenta(trainer, arrays, number)


def _connect(trainer: mx.gluon.Trainer) -> None:
    """Make its key-value store, which copies the first device's parameters to the others, BatchNorm's too.

    Left to itself, it does so after the first gradients: after the devices' statistics have gone their own ways.
    """
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._params_to_init:
        trainer._init_params()


def _fits(array: Optional[np.ndarray], parameter: mx.gluon.Parameter) -> bool:
    return array is not None and array.shape == parameter.shape and array.dtype.kind == "f"


def _momenta(trainer: mx.gluon.Trainer) -> Dict[int, mx.nd.NDArray]:
    """Optimiser states by parameter index; those of the first device stand for all, which hold the same."""
    _connect(trainer)
    if trainer._update_on_kvstore:
        raise ConfsegError("checkpoint: wants a Trainer with update_on_kvstore=False")
    return {i: state for i, state in trainer._updaters[0].states.items() if state is not None}


def _restore_momenta(trainer: mx.gluon.Trainer, arrays: Dict[str, np.ndarray], number: int) -> None:
    for index, parameter in enumerate(trainer._params):
        momentum = arrays.get(f"{number}.{index}.momentum")
        if momentum is None:
            continue
        for updater, ctx in zip(trainer._updaters, parameter.list_ctx()):
            updater.states[index] = mx.nd.array(momentum, ctx=ctx, dtype=parameter.dtype)
            updater.states_synced[index] = True
