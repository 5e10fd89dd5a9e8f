"""Arrays from .pth files of torch >= 1.6: zip archives of ROOT/data.pkl and, per storage, bytes in ROOT/data/KEY.

Of the pickle only its stack of plain values is replayed; nothing in it is run.
"""

import logging
import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from .tensor_base import BFLOAT16, MAX_DIMENSIONS, Tensors, Unreadable, joined, shown, unique, whole_number

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

_log = logging.getLogger(__name__)


@dataclass(frozen=True)  # not a tuple, which a pickle can make itself
class _Global:
    """A class or function that a pickle names; it stays a name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    data: bytes
    dtype: Any


def read_torch(path: Path) -> Tensors:
    """Arrays by name; raises Unreadable, and what zipfile and pickletools raise where they meet damage."""
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
    return unique((entry.filename, None) for entry in entries)


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
        return _strided(
            storage, whole_number(offset), [whole_number(n) for n in shape], [whole_number(n) for n in strides]
        )


def _strided(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """A view of a storage; offset and strides are counted in elements."""
    itemsize = storage.dtype.itemsize
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise Unreadable("it claims an array of impossible shape; fetch it again")
    if math.prod(shape) == 0:
        return np.zeros(0, storage.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    # Stride 0 could make any size out of one element.
    if max(last + 1, math.prod(shape)) * itemsize > len(storage.data):
        raise Unreadable("it claims more data than it has; fetch it again")
    elements = np.frombuffer(storage.data, storage.dtype, len(storage.data) // itemsize)[offset:]
    return np.lib.stride_tricks.as_strided(elements, shape, [stride * itemsize for stride in strides], writeable=False)
