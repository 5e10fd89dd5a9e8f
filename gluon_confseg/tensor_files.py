"""Arrays by name from Gluon .params, .safetensors and .pth files, read as data and never executed.

The readers take hostile files: sizes that a header claims are held against the file before anything is allocated,
arrays are views of the bytes that were read, and of a pickle only its stack of plain values is replayed.
"""

import json
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, Tuple

import numpy as np

from .errors import ConfsegError
from .files import PathLike
from .npz_sizes import DAMAGE
from .tensor_base import BFLOAT16, MAX_DIMENSIONS, Tensors, Unreadable, refusal, shown, unique, view_of, whole_number
from .torch_files import read_torch

_PARAMS_MAGIC = 0x112  # MXNet's kMXAPINDArrayListMagic
_NDARRAY_V1, _NDARRAY_V2 = 0xF993FAC8, 0xF993FAC9  # earlier files have the number of dimensions in this place
_PARAMS_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?", 12: BFLOAT16}

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

_DAMAGE = (*DAMAGE, AssertionError)  # the last is of pickletools


def read_tensors(path: PathLike) -> Tensors:
    """Arrays by name from a .params, .safetensors or .pth file; which one it is, its first bytes tell.

    Arrays are read-only views in the file's types (bfloat16 as BFLOAT16) and not always contiguous. A .pth file is
    one of torch >= 1.6 with tensors and plain values only; of {"state_dict": ...} and {"model": ...} the inner one is
    read. Raises ConfsegError for a file that is missing, damaged or anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfsegError(f"weights file {path} does not exist")
    try:
        with open(path, "rb") as handle:
            read = _reader(handle.read(9))
        return read(path)
    except Unreadable as error:
        raise refusal(str(path), str(error)) from error
    except OSError as error:
        raise ConfsegError(f"cannot read weights file {path}: {error.strerror or 'it is damaged'}") from error
    except _DAMAGE as error:
        raise refusal(str(path), f"it is damaged or cut short ({type(error).__name__}); fetch it again") from error


def _reader(head: bytes) -> Callable[[Path], Tensors]:
    if head[8:9] == b"{":  # first: the eight bytes before it, the header's length, may look like anything
        return _read_safetensors
    if head[:8] == _PARAMS_MAGIC.to_bytes(8, "little"):
        return _read_params
    if head[:4] == b"PK\x03\x04":
        return read_torch
    if head[:1] == b"\x80":
        raise Unreadable(
            "it is a bare pickle (torch before 1.6), which only running it would read; convert it where torch is: "
            "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)"
        )
    raise Unreadable("it is neither a .params nor a .safetensors nor a .pth file; fetch it again")


# Gluon .params (MXNet 1.9.1, src/ndarray/ndarray.cc, NDArray::Save and LegacyLoad)


class _Cursor:
    """Reads little-endian numbers one after another."""

    def __init__(self, data: bytes):
        self._data, self._position = data, 0

    def array(self, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        values = view_of(self._data, self._position, dtype, shape)
        self._position += values.nbytes
        return values

    def number(self, dtype: str) -> int:
        return self.array(dtype, (1,)).item()


def _read_params(path: Path) -> Tensors:
    cursor = _Cursor(path.read_bytes())
    cursor.array("<u8", (2,))  # magic number, reserved
    # A count that is not true runs into the end of the file.
    arrays = [_read_ndarray(cursor) for _ in range(cursor.number("<u8"))]
    if cursor.number("<u8") != len(arrays):
        raise Unreadable("its arrays have no names; save it by save_parameters of the network")
    names = [cursor.array("u1", (cursor.number("<u8"),)).tobytes().decode("utf-8") for _ in arrays]
    return unique(zip(names, arrays))


def _read_ndarray(cursor: _Cursor) -> np.ndarray:
    magic = cursor.number("<u4")
    if magic == _NDARRAY_V2 and cursor.number("<i4") != 0:
        raise Unreadable("it holds sparse arrays; save them as dense ones")
    dimensions = cursor.number("<i4") if magic in (_NDARRAY_V1, _NDARRAY_V2) else magic
    if dimensions == 0:
        return np.zeros(0, np.float32)  # an array that was never given a value: nothing follows
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise Unreadable("it claims an array of impossible shape; fetch it again")
    shape = cursor.array("<i8" if magic in (_NDARRAY_V1, _NDARRAY_V2) else "<u4", (dimensions,)).tolist()
    cursor.array("<i4", (2,))  # the device that it was on
    return cursor.array(_PARAMS_TYPES[cursor.number("<i4")], shape)


# safetensors (huggingface/safetensors, README, "Format")


def _read_safetensors(path: Path) -> Tensors:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise Unreadable("it claims more data than it has; fetch it again")
    header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    header.pop("__metadata__", None)
    spans = sorted((*_span(entry), name) for name, entry in header.items())
    ends = [8 + length, *(8 + length + end for _, end, _ in spans)]
    if [8 + length + start for start, _, _ in spans] != ends[:-1] or ends[-1] != len(data):
        raise Unreadable("its tensors do not fill it from end to end; fetch it again")
    return {name: _safetensor(data, start, end, header[name], name) for start, (_, end, name) in zip(ends, spans)}


def _span(entry: Mapping[str, Any]) -> Tuple[int, int]:
    start, end = map(whole_number, entry["data_offsets"])
    return start, end


def _safetensor(data: bytes, start: int, end: int, entry: Mapping[str, Any], name: str) -> np.ndarray:
    """The tensor at byte `start` of the file; `end` is its end relative to the first tensor."""
    if entry["dtype"] not in _SAFETENSORS_TYPES:
        raise Unreadable(f"{shown(name)} is of type that is not read; save it as F32")
    tensor = view_of(data, start, _SAFETENSORS_TYPES[entry["dtype"]], [whole_number(size) for size in entry["shape"]])
    if tensor.nbytes != end - whole_number(entry["data_offsets"][0]):
        raise Unreadable(f"the shape of {shown(name)} does not go with its length; fetch it again")
    return tensor
