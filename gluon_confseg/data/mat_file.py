"""One field of a MATLAB 5 .mat file, read as data: SBD's class labels are GTcls.Segmentation.

The layout is MathWorks' "MAT-File Format", level 5. scipy.io.loadmat builds what a file claims, half a minute for one
of 200 bytes; here nothing is larger than the file, inflated to a bound.
"""

import struct
import zlib
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np

_MAX_BYTES = 1 << 22  # of a file, inflated: SBD's are 0.3 MB
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # miMATRIX, miCOMPRESSED
_STRUCT, _NUMERIC = 2, range(6, 16)  # mxSTRUCT_CLASS; mxDOUBLE_CLASS to mxUINT64_CLASS
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}

_Element = Tuple[int, bytes]  # type, content


def read_field(path: Path, variable: str, field: str) -> np.ndarray:
    """`variable.field`, a numeric matrix: (rows, columns), of the type that it is stored in.

    Raises OSError, and ValueError or struct.error for a file that is damaged, of another form or has no such field.
    """
    with open(path, "rb") as handle:
        data = handle.read(_MAX_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    for kind, content in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(_inflated(content), order), (0, b""))
        if kind == _MATRIX:
            array_class, _, name, parts = _array(content, order)
            if array_class == _STRUCT and name == variable.encode():
                return _numbers(_field(parts, field, order), order)
    raise ValueError(f"it has no structure {variable}")


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """The data elements that follow one another; the tag of a small one holds its type, length and content."""
    position = 0
    while position < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:
            kind, length, start = kind & 0xFFFF, min(kind >> 16, 4), position + 4
        if start + length > len(data):
            raise ValueError("cut short")
        yield kind, data[start : start + length]
        position = start + length + (0 if kind == _COMPRESSED else -(start + length - position) % 8)


def _array(data: bytes, order: str) -> Tuple[int, Tuple[int, ...], bytes, List[_Element]]:
    """An array's class, dimensions and name, and what follows."""
    (_, flags), (_, sizes), (_, name), *parts = _elements(data, order)
    array_class = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    return array_class, struct.unpack(f"{order}{len(sizes) // 4}i", sizes), name, parts


def _field(parts: List[_Element], field: str, order: str) -> bytes:
    """Of what follows a structure's name, the array of a field of its first element."""
    (_, width), (_, names), *fields = parts
    (size,) = struct.unpack(f"{order}i", width)
    if size < 1:
        raise ValueError("damaged: names of fields without length")
    known = [names[start : start + size].split(b"\0")[0] for start in range(0, len(names), size)]
    index = known.index(field.encode())
    if index >= len(fields) or fields[index][0] != _MATRIX:
        raise ValueError("cut short")
    return fields[index][1]


def _numbers(data: bytes, order: str) -> np.ndarray:
    array_class, shape, _, parts = _array(data, order)
    if array_class not in _NUMERIC or len(shape) != 2 or min(shape) < 0 or not parts or parts[0][0] not in _TYPES:
        raise ValueError("not a matrix of numbers")
    return np.frombuffer(parts[0][1], order + _TYPES[parts[0][0]]).reshape(shape, order="F")
