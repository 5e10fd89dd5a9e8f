"""Weights files for the tests, written by hand from the formats' descriptions, without torch."""

import io
import json
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

from gluon_confseg.backend import mx


def raw(array):
    return np.ascontiguousarray(array).tobytes()


def bfloat16(array):
    """The upper halves of float32 numbers, as uint16."""
    return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors(tensors, header=None, length=None):
    """A .safetensors file of {name: (dtype name, array)}, with another header or header length where given."""
    entries, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        data = raw(array)
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = (json.dumps(entries) if header is None else header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@dataclass
class Tensor:
    """What torch.save writes of a tensor: a view of the storage with this key."""

    key: str
    shape: tuple
    strides: tuple
    offset: int = 0
    storage: str = "FloatStorage"


def opcodes(value):
    """`value` in pickle protocol 2, as torch.save writes it; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, (tuple, list)):
        start, end = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
        return start + b"".join(map(opcodes, value)) + end
    if isinstance(value, dict):
        items = b"".join(opcodes(key) + opcodes(item) for key, item in value.items())
        return b"ccollections\nOrderedDict\n)R(" + items + b"u"
    identity = ("storage", f"ctorch\n{value.storage}\n".encode(), value.key, "cpu", 0)
    arguments = (opcodes(identity) + b"Q", value.offset, value.shape, value.strides, False, {})
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + opcodes(arguments) + b"R"


def pth(value, storages=None, *, root="archive", compression=zipfile.ZIP_STORED, more=()):
    """A .pth file: `value` as its pickle, and {key: bytes} of its storages."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + opcodes(value) + b".")
        archive.writestr(f"{root}/byteorder", b"little")
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}/data/{key}", data)
        for name, data in more:
            archive.writestr(name, data)
    return target.getvalue()


def contiguous(array, key, storage="FloatStorage"):
    """`array`, C-contiguous, as the whole storage with this key."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(key, array.shape, strides, storage=storage)


def state_dict(arrays, prefix=""):
    """What torch.save writes of float32 and int64 arrays: the values and the storages for `pth`."""
    value, storages = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        storage = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        value[prefix + name] = contiguous(array, str(number), storage)
        storages[str(number)] = raw(array)
    return value, storages


def params(record, name="a"):
    """A .params file of one array."""
    text = name.encode()
    return struct.pack("<3Q", 0x112, 0, 1) + record + struct.pack("<2Q", 1, len(text)) + text


def record(shape, data, *, start="<Ii", kind=0, head=(0xF993FAC8,)):
    """An NDArray record in version 1 (default), or with another start."""
    dimensions = struct.pack(f"<{len(shape)}{'I' if start == '<I' else 'q'}", *shape)
    return struct.pack(start, *head, len(shape)) + dimensions + struct.pack("<3i", 1, 0, kind) + data


def gluon_file(path, arrays):
    mx.nd.save(str(path), {name: mx.nd.array(value, dtype=value.dtype) for name, value in arrays.items()})
    return path


def write(tmp_path, data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path
