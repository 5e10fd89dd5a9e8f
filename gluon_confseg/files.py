"""Files and folders that are either complete or absent: atomic writing, JSON, digests."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Union

import numpy as np

from .errors import ConfsegError
from .npz_sizes import DAMAGE, check_npz
from .plain_data import MAX_JSON, parse_json, read_text

PathLike = Union[str, Path]


UNFINISHED = ".unfinished-"  # how temporary names begin

# what file systems answer that do not sync folders, or do not let this user open one
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, otherwise removed.

    The temporary name keeps the suffix, for writers that choose the format by it. Missing parent folders are made.
    Raises ConfsegError where the file system refuses (full disk, no permission): the old file is then as it was, or,
    where only syncing the folder failed, the new one is whole.
    """
    path = Path(path)
    temporary = None
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f"{UNFINISHED}{path.stem[:32]}."
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
            temporary = Path(name)
            with open(descriptor, "rb") as handle:
                _mark_as_used(handle.fileno())
                yield temporary
                _sync(temporary)
                temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; others may read what a run wrote
                os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: PathLike, what: str = "") -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is synced and renamed to `path`, otherwise removed.

    `path` may be an empty folder, otherwise it must not exist. Missing parent folders are made, and what killed
    processes left of the same folder is removed. Raises ConfsegError ("cannot write `what` to `path`") where the file
    system refuses, also for what the caller does inside.
    """
    path = Path(path)
    temporary = None
    with explained(f"{what} to {path}" if what else path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f"{UNFINISHED}{path.name}."
            remove_unfinished(path.parent, prefix)
            temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
            with _opened(temporary) as descriptor:
                _mark_as_used(descriptor)
                yield temporary
                for folder, _, names in os.walk(temporary):
                    for name in names:
                        _sync(Path(folder, name))
                    _sync_folder(Path(folder))
                temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
                temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: PathLike, prefix: str = UNFINISHED) -> None:
    """Remove what killed processes left in a folder: temporary files and folders that no living process writes to."""
    for path in Path(folder).glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), _opened(path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def explained(target: PathLike) -> Iterator[None]:
    """Turn what the file system raises while `target` is written into a ConfsegError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfsegError(f"cannot write {target}: {reason}; free space or choose another folder") from error


def _mark_as_used(descriptor: int) -> None:
    """A lock that the kernel takes away when this process ends, however it does."""
    with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever removed
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder, or of a file, for locking and syncing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    """Make a rename in a folder last through a power cut, where the file system can."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(path: PathLike, text: str) -> None:
    """Write `text` (UTF-8) to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: absent numbers are null."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: PathLike) -> Any:
    """Read a JSON file; ConfsegError names the file where it is missing or damaged."""
    try:
        return parse_json(read_text(path, MAX_JSON))
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfsegError(f"{path} is not valid JSON ({error}); delete it and run again") from error


def write_npz(path: PathLike, arrays: Dict[str, np.ndarray], *, compress: bool = False) -> None:
    """Write arrays to an .npz, atomically; the same bytes for the same content."""
    with atomic_path(path) as temporary:
        content = io.BytesIO()  # in memory first: on a full disk, zipfile leaves a traceback behind besides its error
        (np.savez_compressed if compress else np.savez)(content, **arrays)
        # a copy: a view that a traceback keeps crashes the garbage collector of Python 3.12.1
        temporary.write_bytes(content.getvalue())


def read_npz(path: PathLike, keys: Optional[Sequence[str]] = None) -> Dict[str, np.ndarray]:
    """Read an .npz (no pickle), or only `keys` of it; ConfsegError names the file where it is missing or damaged."""
    try:
        check_npz(path)
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys or archive.files}
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise ConfsegError(f"{path} is not a whole .npz file; delete it and run again") from error


def sha256(path: PathLike) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
