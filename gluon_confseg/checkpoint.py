"""One training state, saved atomically and restored exactly: parameters, optimiser state, how far it got."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .backend import mx, settle
from .errors import ConfsegError
from .files import PathLike, read_npz, write_npz
from .plain_data import parse_json

Trainers = Sequence[mx.gluon.Trainer]


def save(path: PathLike, trainers: Trainers, meta: Dict[str, Any]) -> None:
    """Write parameters and momenta of all trainers, and `meta` (JSON-able), to one npz file."""
    settle()
    arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
    for number, trainer in enumerate(trainers):
        for index, parameter in enumerate(trainer._params):
            arrays[f"{number}.{index}.value"] = parameter.data(parameter.list_ctx()[0]).asnumpy()
        for index, state in _momenta(trainer).items():
            arrays[f"{number}.{index}.momentum"] = state.asnumpy()
    write_npz(path, arrays)


def load(path: PathLike, trainers: Trainers) -> Dict[str, Any]:
    """Restore what `save` wrote into trainers over the same parameters; returns its `meta`.

    Raises ConfsegError where the file is damaged or belongs to another network.
    """
    arrays, meta = _read(Path(path))
    wanted = [
        (f"{number}.{index}.value", parameter)
        for number, trainer in enumerate(trainers)
        for index, parameter in enumerate(trainer._params)
    ]
    for key, parameter in wanted:
        momentum = arrays.get(key.replace(".value", ".momentum"))
        if not _fits(arrays.get(key), parameter) or not (momentum is None or _fits(momentum, parameter)):
            raise ConfsegError(f"{path} holds another network ({parameter.name} differs); delete it and run again")
    for key, parameter in wanted:
        parameter.set_data(mx.nd.array(arrays[key], dtype=parameter.dtype))
    for number, trainer in enumerate(trainers):
        _restore_momenta(trainer, {k: v for k, v in arrays.items() if k.startswith(f"{number}.")}, number)
    return meta


def _fits(array: Optional[np.ndarray], parameter: mx.gluon.Parameter) -> bool:
    return array is not None and array.shape == parameter.shape and array.dtype.kind == "f"


def load_newest(paths: Sequence[PathLike], trainers: Trainers) -> Tuple[Optional[Dict[str, Any]], List[str]]:
    """Restore the first of `paths` that is whole; returns its meta (None where none is) and a line per damaged one."""
    skipped = []
    for path in paths:
        if not Path(path).exists():
            continue
        try:
            return load(path, trainers), skipped
        except ConfsegError as error:
            skipped.append(str(error))
    return None, skipped


def read_meta(path: PathLike) -> Dict[str, Any]:
    """The `meta` of a checkpoint; empty where there is none, or it is damaged."""
    try:
        return _read(Path(path))[1]
    except ConfsegError:
        return {}


def _read(path: Path) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    arrays = read_npz(path)
    try:
        meta = parse_json(arrays.pop("meta").tobytes().decode())
        if not isinstance(meta, dict):
            raise ValueError("its meta is no mapping")
        return arrays, meta
    except (KeyError, ValueError) as error:
        raise ConfsegError(f"{path} is no checkpoint; delete it and run again") from error


def _momenta(trainer: mx.gluon.Trainer) -> Dict[int, mx.nd.NDArray]:
    """Optimiser states by parameter index; those of the first device stand for all, which hold the same."""
    if not trainer._kv_initialized:
        trainer._init_kvstore()
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
