"""The sizes that the headers of an .npz claim, held against the file: NumPy's reader allocates what they claim."""

import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Sequence, Union

import numpy as np

# what the readers of zipfile and NumPy raise for damaged bytes; which one depends on the Python version
DAMAGE = (ValueError, TypeError, AttributeError, LookupError, EOFError, RuntimeError, MemoryError, ArithmeticError)
DAMAGE += (SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error)
DAMAGE += (SystemError,)  # from the tokenizer of Python 3.12.1

_MAX_RATIO = 1032  # deflate's, of equal bytes
_MAX_INFLATED = 1 << 29  # bytes of all arrays of a compressed file
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_npz(path: Union[str, Path]) -> None:
    """Raise one of DAMAGE for what is no .npz of plain arrays, or claims more than it has; OSError if unreadable.

    What is compressed may hold 512 MiB in all.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _check_sizes(entries, os.path.getsize(path))
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two arrays have one name")
        for entry in entries:
            _check_member(archive, entry)


def _check_sizes(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ValueError("compressed in another way than NumPy's")
    if sum(entry.compress_size for entry in entries) > size or any(map(_claims_too_much, entries)):
        raise ValueError("claims more than it has")
    if sum(entry.file_size for entry in entries) > max(size, _MAX_INFLATED):
        raise ValueError("too large when it is inflated")


def _claims_too_much(entry: zipfile.ZipInfo) -> bool:
    if entry.compress_type == zipfile.ZIP_STORED:
        return entry.file_size != entry.compress_size
    return entry.file_size > _MAX_RATIO * (entry.compress_size + 1)


def _check_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as member:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
        if dtype.hasobject or not dtype.itemsize or not entry.filename.endswith(".npy"):
            raise ValueError("holds something other than arrays of numbers and text")
        if any(side < 0 for side in shape) or member.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise ValueError("claims another size than it has")
