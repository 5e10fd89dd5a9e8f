"""Files and folders that are either complete or absent: atomic writing, JSON, digests."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, Union

import numpy as np

from .errors import ConfsegError
from .npz_sizes import DAMAGE, check_npz
from .plain_data import MAX_JSON, parse_json, read_text

PathLike = Union[str, Path]


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, otherwise removed.

    The temporary name keeps the suffix, for writers that choose the format by it. Missing parent folders are made.
    Raises ConfsegError where the file system refuses (full disk, no permission).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:32]}.", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; others may read what a run wrote
        os.replace(temporary, path)
    except OSError as error:
        raise ConfsegError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: PathLike, what: str = "") -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is renamed to `path`, otherwise removed.

    `path` may be an empty folder, otherwise it must not exist. Missing parent folders are made. Raises ConfsegError
    ("cannot write `what` to `path`") where the file system refuses, also for what the caller does inside.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        temporary.replace(path)
    except OSError as error:
        target = f"{what} to {path}" if what else path
        raise ConfsegError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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


def read_npz(path: PathLike) -> Dict[str, np.ndarray]:
    """Read an .npz (no pickle); ConfsegError names the file where it is missing or damaged."""
    try:
        check_npz(path)
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
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
