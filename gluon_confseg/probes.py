"""Facts that need a library to be loaded, each found in its own process: a crash or a hang is an answer too."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from . import cuda
from .errors import ConfsegError
from .packages import bounded, installed

SECONDS = 60  # a machine that is busy needs some; a driver that hangs needs for ever

Facts = Dict[str, Any]

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from gluon_confseg import probes
probes.answer(sys.argv[1])
"""


def mxnet_facts() -> Facts:
    """MXNet's version, enabled features, threads, and why it cannot use the driver; it has computed one sum."""
    from .backend import mx, runtime_problem

    total = mx.nd.ones((2, 3)).sum().asscalar()
    if total != 6:
        raise ConfsegError(f"MXNet computes 6 = {total}: reinstall it")
    features = [name for name, feature in mx.runtime.Features().items() if feature.enabled]
    facts = {"version": mx.__version__, "features": features, "threads": os.environ["OMP_NUM_THREADS"]}
    return {**facts, "runtime_problem": runtime_problem()}


def opencv_facts() -> Facts:
    """OpenCV's version."""
    import cv2

    return {"version": cv2.__version__}


def cuda_facts() -> Facts:
    """The driver, and with the GPU build each NVIDIA library: where it came from, or why it does not load."""
    facts: Facts = {"driver": cuda.query_driver(), "libraries": []}
    if installed(cuda.GPU_BUILD):
        facts["libraries"] = [_library(folder, library) for folder, library in cuda.NVIDIA_LIBRARIES]
    return facts


def _library(folder: str, library: str) -> Facts:
    path = cuda.wheel_library(folder, library)
    try:
        ctypes.CDLL(str(path or library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return {"name": library, "error": str(error)}
    if path is None:
        return {"name": library, "from": f"system: {_loaded_file(library)}"}
    wheel = cuda.wheel_name(folder)
    return {"name": library, "from": f"wheel: {wheel} {installed(wheel) or path}"}


def _loaded_file(library: str) -> str:
    """Path that the loader chose; the file's version may be longer than the library's name."""
    stem = library.split(".so")[0] + ".so"
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(stem):
            return path
    return "place unknown"


_PACKAGES = {"cv2": "opencv-python", "distutils": "setuptools"}  # modules whose package is named otherwise
_PROBES = {"mxnet": mxnet_facts, "opencv": opencv_facts, "cuda": cuda_facts}


def answer(name: str) -> None:
    """Print the facts of a probe as JSON, or {"error": one line}. What libraries print goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        facts = _PROBES[name]()
    except ConfsegError as error:
        facts = {"error": str(error)}
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name, error.name)
        facts = {"error": f"{package} is not installed: pip install {bounded(package)}"}
    except Exception as error:  # whatever a broken installation raises
        lines = str(error).strip().splitlines() or [""]
        facts = {"error": f"{type(error).__name__}: {lines[0]}", "unexpected": True}
    os.write(out, json.dumps(facts).encode())


def ask(names: Sequence[str] = tuple(_PROBES)) -> Dict[str, Facts]:
    """Run the probes side by side, each in a process of its own, and return what they found."""
    with _started(names) as children:
        return {name: _read(child) for name, child in children.items()}


@contextlib.contextmanager
def _started(names: Sequence[str]) -> Iterator[Dict[str, "subprocess.Popen[bytes]"]]:
    """The probes' processes; those that still run at the end are ended."""
    command = [sys.executable, "-c", _CHILD]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    children = {name: subprocess.Popen([*command, name, json.dumps(sys.path)], **pipes) for name in names}
    try:
        yield children
    finally:
        for child in children.values():
            child.kill()
            child.communicate()


def _read(child: "subprocess.Popen[bytes]") -> Facts:
    try:
        out, _ = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {SECONDS} s", "unexpected": True}
    if child.returncode < 0:
        return {"error": f"crashed with {signal.Signals(-child.returncode).name}", "unexpected": True}
    try:
        return json.loads(out)
    except ValueError:
        return {"error": f"ended with exit code {child.returncode} and no answer", "unexpected": True}
