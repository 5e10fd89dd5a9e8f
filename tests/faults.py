"""The file layer of faults.c, in a process that has it preloaded."""

import contextlib
import ctypes
import errno
import os

KINDS = ("open", "write", "fsync", "rename", "read")

# kind of call, its error, whether the failing write takes half of its bytes
WRITING = [
    ("open", errno.EACCES, False),
    ("write", errno.ENOSPC, False),
    ("write", errno.ENOSPC, True),
    ("fsync", errno.EIO, False),
    ("rename", errno.EACCES, False),
]
READING = [("open", errno.EACCES, False), ("read", errno.EIO, False)]


@contextlib.contextmanager
def fault(folder, kind, number, error=errno.EIO, part=False):
    """Within, call `number` (from 1; 0: none) of a kind on files below `folder` fails.

    Yields a dict that holds, after the block, the number of calls of each kind.
    """
    layer, counted = ctypes.CDLL(os.environ["LD_PRELOAD"]), {}
    layer.fault_disarm.restype = ctypes.POINTER(ctypes.c_int)
    layer.fault_arm(str(folder).encode(), KINDS.index(kind), number, error, int(part))
    try:
        yield counted
    finally:
        counted.update(zip(KINDS, layer.fault_disarm()[: len(KINDS)]))
