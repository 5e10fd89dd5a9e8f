"""MXNet and GluonCV, made to import on today's Python: the only file that knows their age.

Everybody else writes `from .backend import mx` and, where it is needed, `import_gluoncv()`.
"""

import logging
import os
import platform
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Sequence, Union

import numpy

from . import __version__
from .cuda import (
    CPU_INSTALL,
    DRIVER_LIBRARY,
    GPU_BUILD,
    GPU_INSTALL,
    NVIDIA_LIBRARIES,
    can_run,
    load_libraries,
    query_driver,
    wheel_install,
)
from .errors import ConfsegError
from .packages import installed

# What libmxnet takes from the system, and the Debian package that brings it; the wheel contains the rest.
_SYSTEM_LIBRARIES = {"libgomp.so.1": "libgomp1", "libquadmath.so.0": "libquadmath0", "libstdc++.so.6": "libstdc++6"}

_OLD_NUMPY_NAMES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}

# What MXNet and GluonCV are known to say while they are imported; nothing here is about our own code.
_KNOWN_WARNINGS = (
    (r"In accordance with NEP 32", DeprecationWarning),  # financial functions that left NumPy
    (r"distutils Version classes are deprecated", DeprecationWarning),
    (r"The distutils package is deprecated", DeprecationWarning),
    (r"invalid escape sequence", DeprecationWarning),
    (r"invalid escape sequence", SyntaxWarning),  # the same one, from Python 3.12
)

_log = logging.getLogger(__name__)


def _silence_known_warnings() -> None:
    for message, category in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)


def _add_old_numpy_names() -> None:
    """Give NumPy the names that 1.24 removed and MXNet 1.9.1 still uses, at import and later."""
    if int(numpy.__version__.split(".")[0]) >= 2:
        raise ConfsegError(f"NumPy {numpy.__version__} is too new for MXNet 1.9.1: pip install 'numpy<2'")
    for name, builtin in _OLD_NUMPY_NAMES.items():
        if name not in vars(numpy):
            setattr(numpy, name, builtin)


def _set_threads() -> None:
    """Let MXNet use small machines whole: left alone, it takes half of the CPUs, so one of two."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(max(cpus // 2, min(cpus, 4)))


def import_mxnet() -> ModuleType:
    """Import MXNet 1.9.1 with what it needs in place. Raises ConfsegError saying what to install."""
    _add_old_numpy_names()
    _set_threads()
    try:
        if installed(GPU_BUILD):
            load_libraries()
        with warnings.catch_warnings():
            _silence_known_warnings()
            import mxnet
            import mxnet.contrib.amp  # `import mxnet` leaves it out
    except ModuleNotFoundError as error:
        package = "setuptools" if error.name == "distutils" else error.name
        install = CPU_INSTALL if package == "mxnet" else f"pip install {package}"
        raise ConfsegError(f"MXNet cannot be imported, {package} is not installed: {install}") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no libmxnet.so at all
        raise ConfsegError(_explain_missing_library(str(error).splitlines()[0])) from error
    return mxnet


def _explain_missing_library(message: str) -> str:
    library = message.split(":")[0].rpartition("/")[2]
    if library == DRIVER_LIBRARY:
        return (
            "mxnet-cu112 is installed, but the NVIDIA driver (libcuda.so.1) is not: install the driver, "
            f"or the CPU build: pip uninstall mxnet-cu112; {CPU_INSTALL}"
        )
    if library in _SYSTEM_LIBRARIES:
        return f"MXNet needs {library} of the system: apt install {_SYSTEM_LIBRARIES[library]}"
    if library in dict(map(reversed, NVIDIA_LIBRARIES)):
        return f"mxnet-cu112 lacks an NVIDIA library ({message}): {wheel_install(library)}"
    build = GPU_BUILD if installed(GPU_BUILD) else "mxnet"
    return f"MXNet's library does not load ({message}): pip install --force-reinstall --no-deps {build}==1.9.1"


mx = import_mxnet()


def import_gluoncv() -> ModuleType:
    """Import GluonCV's MXNet half, also beside a PyTorch that it would refuse. Raises ConfsegError."""
    if "gluoncv" in sys.modules:
        return sys.modules["gluoncv"]
    torch = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torch"}
    sys.modules["torch"] = None  # an import of it now fails, and GluonCV goes on without
    try:
        with warnings.catch_warnings():
            _silence_known_warnings()
            import gluoncv
            import gluoncv.model_zoo
    except ImportError as error:
        raise ConfsegError(f"GluonCV cannot be imported ({error}): pip install gluoncv==0.10.5.post0") from error
    finally:
        del sys.modules["torch"]
        sys.modules.update(torch)
    return gluoncv


def _has_cuda() -> bool:
    return mx.runtime.Features().is_enabled("CUDA")


def _gpu_problem(index: int) -> str:
    """Why MXNet cannot use GPU `index`, with what to do; "" where it can."""
    if not _has_cuda():
        return f"gpu:{index} was asked for, but this MXNet is the CPU build: for the GPU build, {GPU_INSTALL}"
    driver = query_driver()
    if index >= len(driver.gpus):
        there = ", ".join(f"gpu:{i} ({name})" for i, (name, _) in enumerate(driver.gpus))
        there = f"this machine shows {there}" if there else driver.problem
        return f"gpu:{index} is not there: {there}; choose another device or cpu:0"
    name, capability = driver.gpus[index]
    if not can_run(capability):
        return (
            f"gpu:{index} ({name}, compute capability {capability[0]}.{capability[1]}) cannot run mxnet-cu112 1.9.1, "
            "which was built for 5.0 to 8.9; choose another GPU or cpu:0"
        )
    problem = runtime_problem()
    return f"gpu:{index} ({name}) is there, but {problem}; update the driver or choose cpu:0" if problem else ""


def runtime_problem() -> str:
    """Why the GPU build cannot work with the driver that is installed; "" where it can, and for the CPU build."""
    try:
        mx.context.num_gpus()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("==")[2]
        return f"CUDA 11 refuses its driver ({reason.rpartition(': ')[2]})"
    return ""


def _auto_devices() -> List[str]:
    """Every GPU that MXNet can use, else the CPU; a GPU that is left out, or absent from the GPU build, is logged."""
    if not _has_cuda():
        return ["cpu:0"]
    driver = query_driver()
    problems = [_gpu_problem(index) for index in range(len(driver.gpus))]
    if not problems:
        _log.warning("%s: the CPU is used; confseg doctor says more", driver.problem)
    for problem in filter(None, problems):
        _log.warning("%s", problem)
    return [f"gpu:{index}" for index, problem in enumerate(problems) if not problem] or ["cpu:0"]


def devices(spec: Union[str, Sequence[str]] = "auto") -> List["mx.Context"]:
    """MXNet contexts for "auto" (every usable GPU, else cpu:0), "cpu:0,cpu:1" or ["gpu:0", "gpu:1"].

    Raises ConfsegError for a name that is none, a device named twice, and a GPU that is absent or cannot run MXNet.
    """
    names = spec.split(",") if isinstance(spec, str) else list(spec)
    if names == ["auto"]:
        names = _auto_devices()
    contexts = [_context(str(name).strip()) for name in names]
    if not contexts:
        raise ConfsegError("devices: the list is empty; write auto, cpu:0 or gpu:0")
    for context in contexts:
        if contexts.count(context) > 1:
            raise ConfsegError(f"devices: {context.device_type}:{context.device_id} is listed twice; name each once")
    return contexts


def _context(name: str) -> "mx.Context":
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "gpu") or not (index or "0").isdecimal() or name.endswith(":"):
        raise ConfsegError(f"devices: {name!r} is not a device; write auto, cpu:0 or gpu:0")
    context = mx.Context(kind, int(index or 0))
    problem = _gpu_problem(context.device_id) if kind == "gpu" else ""
    if problem:
        raise ConfsegError(f"devices: {problem}")
    return context


def settle() -> None:
    """Wait for all that is queued. To be called before parameters are read after an inference pass.

    On CPU, oneDNN reorders the weights in place in such a pass; reading them meanwhile gives mixed layouts, and no
    error.
    """
    mx.nd.waitall()


def cpu_model() -> str:
    """The CPU's name and numbers, by which oneDNN may choose how it sums; "unknown" where Linux gives none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    lines = (line.partition(":") for line in text.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    numbers = (f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts)
    return ", ".join([facts.get("model name", "unknown"), *numbers])


def versions() -> Dict[str, str]:
    """Versions of what decides a result, for its record; packages that are absent are left out."""
    found = {"gluon_confseg": __version__, "python": platform.python_version(), "platform": platform.platform()}
    # From the metadata: gluoncv.__version__ says 0.11.0 in 0.10.5.post0.
    for package in ("numpy", "mxnet", "mxnet-cu112", "gluoncv", "opencv-python", "opencv-python-headless", "Pillow"):
        version = installed(package)
        if version:
            found[package] = version
    return found
