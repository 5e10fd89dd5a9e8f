"""Arrays by name from Gluon .params, .safetensors and .pth files, read as data and never executed.

The readers take hostile files: sizes that a header claims are held against the file before anything is allocated,
arrays are views of the bytes that were read, and of a pickle only its stack of plain values is replayed.
"""

import json
import logging
import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from .errors import ConfsegError
from .files import PathLike
from .npz_sizes import DAMAGE

Tensors = Dict[str, np.ndarray]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # the upper half of a float32; NumPy has no such type

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

_ORDERED_DICT, _REBUILD_TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_STORAGE_TYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": BFLOAT16,
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_TENSORS_ONLY = "save the tensors alone, where torch is: torch.save(model.state_dict(), NEW)"

_MAX_DIMENSIONS = 32  # NumPy's

_DAMAGE = (*DAMAGE, AssertionError)  # the last is of pickletools


_log = logging.getLogger(__name__)


class Unreadable(ValueError):
    """Why a file is refused; `read_tensors` adds which file."""


def shown(name: str) -> str:
    """A name from a file, fit for one line."""
    text = name.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 80 else text[:77] + "..."


def joined(names: Sequence[str], limit: int = 0) -> str:
    """Names in one line, all of them or the first few."""
    first = names[:limit] if limit else names
    rest = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return ", ".join(map(shown, first)) + rest if names else "none"


def refusal(source: str, reason: str) -> ConfsegError:
    return ConfsegError(f"{source} does not hold the weights of this network: {reason}")


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
        return _read_torch
    if head[:1] == b"\x80":
        raise Unreadable(
            "it is a bare pickle (torch before 1.6), which only running it would read; convert it where torch is: "
            "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)"
        )
    raise Unreadable("it is neither a .params nor a .safetensors nor a .pth file; fetch it again")


def _array(data: bytes, start: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """A view of `data`; refused where it does not lie within."""
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise Unreadable("it claims an array of impossible shape; fetch it again")
    count = math.prod(shape)
    if start + count * np.dtype(dtype).itemsize > len(data):
        raise Unreadable("it claims more data than it has; fetch it again")
    return np.frombuffer(data, dtype, count, start).reshape(shape)


def _unique(pairs: Iterable[Tuple[str, Any]]) -> Dict[str, Any]:
    """A dictionary of pairs whose keys differ."""
    result: Dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise Unreadable(f"the name {shown(name)} is in it twice")
        result[name] = value
    return result


# Gluon .params (MXNet 1.9.1, src/ndarray/ndarray.cc, NDArray::Save and LegacyLoad)


class _Cursor:
    """Reads little-endian numbers one after another."""

    def __init__(self, data: bytes):
        self._data, self._position = data, 0

    def array(self, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        values = _array(self._data, self._position, dtype, shape)
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
    return _unique(zip(names, arrays))


def _read_ndarray(cursor: _Cursor) -> np.ndarray:
    magic = cursor.number("<u4")
    if magic == _NDARRAY_V2 and cursor.number("<i4") != 0:
        raise Unreadable("it holds sparse arrays; save them as dense ones")
    dimensions = cursor.number("<i4") if magic in (_NDARRAY_V1, _NDARRAY_V2) else magic
    if dimensions == 0:
        return np.zeros(0, np.float32)  # an array that was never given a value: nothing follows
    if not 0 < dimensions <= _MAX_DIMENSIONS:
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
    header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    spans = sorted((*_span(entry), name) for name, entry in header.items())
    ends = [8 + length, *(8 + length + end for _, end, _ in spans)]
    if [8 + length + start for start, _, _ in spans] != ends[:-1] or ends[-1] != len(data):
        raise Unreadable("its tensors do not fill it from end to end; fetch it again")
    return {name: _safetensor(data, start, end, header[name], name) for start, (_, end, name) in zip(ends, spans)}


def _span(entry: Mapping[str, Any]) -> Tuple[int, int]:
    start, end = map(_size, entry["data_offsets"])
    return start, end


def _safetensor(data: bytes, start: int, end: int, entry: Mapping[str, Any], name: str) -> np.ndarray:
    """The tensor at byte `start` of the file; `end` is its end relative to the first tensor."""
    if entry["dtype"] not in _SAFETENSORS_TYPES:
        raise Unreadable(f"{shown(name)} is of type that is not read; save it as F32")
    tensor = _array(data, start, _SAFETENSORS_TYPES[entry["dtype"]], [_size(size) for size in entry["shape"]])
    if tensor.nbytes != end - _size(entry["data_offsets"][0]):
        raise Unreadable(f"the shape of {shown(name)} does not go with its length; fetch it again")
    return tensor


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:  # JSON and pickles also have true and 1e300
        raise Unreadable("it has a size that is no whole number; fetch it again")
    return value


# .pth (torch >= 1.6: a zip archive of ROOT/data.pkl and one file of bytes per storage, ROOT/data/KEY)


@dataclass(frozen=True)  # not a tuple, which a pickle can make itself
class _Global:
    """A class or function that a pickle names; it stays a name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    data: bytes
    dtype: Any


def _read_torch(path: Path) -> Tensors:
    with zipfile.ZipFile(path) as archive:
        names = _stored_names(archive, path.stat().st_size)
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Unreadable("it is a zip archive, but not torch's; if it was sent zipped, unpack it")
        root = pickles[0][: -len("data.pkl")]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise Unreadable(f"it was written on a big-endian machine; {_TENSORS_ONLY}")
        read_storages: Dict[str, bytes] = {}

        def storage(key: str) -> bytes:
            if key not in read_storages:  # read once, however often it is named
                read_storages[key] = archive.read(f"{root}data/{key}")
            return read_storages[key]

        return _state_dict(_PlainPickle(storage).read(archive.read(pickles[0])), path)


def _stored_names(archive: zipfile.ZipFile, size: int) -> Dict[str, None]:
    """Names of the entries, which lie uncompressed, as torch writes them, and together are no larger than the file."""
    entries = archive.infolist()
    stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise Unreadable(f"its archive is compressed or claims more data than it has; {_TENSORS_ONLY}")
    return _unique((entry.filename, None) for entry in entries)


def _state_dict(value: Any, path: Path) -> Tensors:
    for key in ("state_dict", "model"):  # as training scripts nest it, torchvision's own the latter
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise Unreadable(f"it holds no state dict; {_TENSORS_ONLY}")
    others = [name for name, tensor in value.items() if not isinstance(tensor, np.ndarray)]
    if others:
        _log.warning("%s: not tensors, not used: %s", path, joined([str(name) for name in others]))
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, np.ndarray)}


class _PlainPickle:
    """Replays a protocol 2 pickle of dictionaries, lists, tuples, plain values and tensors.

    Nothing is imported or called on the file's behalf: pickletools only splits it into opcodes, and a name that is not
    known here ends the reading. `storage` gives the bytes of the storage with a key.
    """

    _LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
    _CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

    def __init__(self, storage: Callable[[str], bytes]):
        self._storage = storage
        self._stack: List[Any] = []
        self._marks: List[int] = []
        self._memo: Dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in self._LITERALS:
                self._stack.append(argument)
            elif name in self._CONSTANTS:
                self._stack.append(self._CONSTANTS[name])
            elif not (self._structure(name) or self._reference(name, argument) or name in ("PROTO", "STOP")):
                raise Unreadable(f"its pickle does more than hold tensors ({name}); {_TENSORS_ONLY}")
        (value,) = self._stack
        return value

    def _structure(self, name: str) -> bool:
        """Tuples, lists and dictionaries; whether it was one of these."""
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            self._stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(tuple(self._pop_marked() if name == "TUPLE" else self._pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_marked()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._pop_marked()
            self._set_items(items[::2], items[1::2])
        else:
            return False
        return True

    def _reference(self, name: str, argument: Any) -> bool:
        """The memo, tensors, and what stands for classes and functions; whether it was one of these."""
        if name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "GLOBAL":
            if argument not in (_ORDERED_DICT, _REBUILD_TENSOR, *_STORAGE_TYPES):
                what = shown(argument.replace(" ", "."))
                raise Unreadable(f"its pickle asks for {what}, which is not run; {_TENSORS_ONLY}")
            self._stack.append(_Global(argument))
        elif name == "BINPERSID":
            self._stack.append(self._persistent(*self._pop(1)))
        elif name == "REDUCE":
            self._stack.append(self._reduce(*self._pop(2)))
        elif name == "BUILD":  # attributes of the dictionary, such as a state dict's _metadata
            self._pop(1)
            self._top(dict)
        else:
            return False
        return True

    def _pop(self, count: int) -> List[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise Unreadable("its pickle is damaged; fetch it again")
        del self._stack[-count:]
        return items

    def _pop_marked(self) -> List[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise Unreadable("its pickle is damaged; fetch it again")
        return self._stack[-1]

    def _set_items(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(keys, values):
            if not isinstance(key, (str, int)):  # hashing a deeply nested tuple would overflow the C stack
                raise Unreadable(f"its pickle has keys that are not names; {_TENSORS_ONLY}")
            if key in target:
                raise Unreadable(f"the name {shown(str(key))} is in it twice")
            target[key] = value

    def _persistent(self, identity: Tuple[str, _Global, str, str, int]) -> _Storage:
        kind, storage_type, key, _device, _count = identity
        if kind != "storage" or not isinstance(storage_type, _Global) or not isinstance(key, str):
            raise Unreadable("its pickle is damaged; fetch it again")
        return _Storage(self._storage(key), np.dtype(_STORAGE_TYPES[storage_type.name]))

    def _reduce(self, function: Any, arguments: Sequence[Any]) -> Any:
        if function == _Global(_ORDERED_DICT) and not arguments:
            return {}
        if function != _Global(_REBUILD_TENSOR):
            raise Unreadable(f"its pickle does more than hold tensors (REDUCE); {_TENSORS_ONLY}")
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage):
            raise Unreadable("its pickle is damaged; fetch it again")
        return _strided(storage, _size(offset), [_size(n) for n in shape], [_size(n) for n in strides])


def _strided(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """A view of a storage; offset and strides are counted in elements."""
    itemsize = storage.dtype.itemsize
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Unreadable("it claims an array of impossible shape; fetch it again")
    if math.prod(shape) == 0:
        return np.zeros(0, storage.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    # Stride 0 could make any size out of one element.
    if max(last + 1, math.prod(shape)) * itemsize > len(storage.data):
        raise Unreadable("it claims more data than it has; fetch it again")
    elements = np.frombuffer(storage.data, storage.dtype, len(storage.data) // itemsize)[offset:]
    return np.lib.stride_tricks.as_strided(elements, shape, [stride * itemsize for stride in strides], writeable=False)
