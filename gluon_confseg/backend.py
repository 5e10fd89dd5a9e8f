"""MXNet and GluonCV, made to import on today's Python: the only file that knows their age.

Everybody else writes `from .backend import mx` and, where it is needed, `import_gluoncv()`.
"""

import ctypes
import importlib.metadata
import logging
import os
import platform
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Dict, Iterator, List, Sequence, Tuple, Union

import numpy

from .errors import ConfsegError

CPU_INSTALL = "pip install mxnet==1.9.1"
GPU_INSTALL = "tools/run_experiment.sh without --cpu, or here: pip uninstall mxnet; pip install -e '.[gpu]'"

# Folder below site-packages/nvidia and library, in the order in which they load without a missing symbol.
NVIDIA_LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"),
    ("nvtx", "libnvToolsExt.so.1"),
    ("cuda_nvrtc", "libnvrtc.so.11.2"),
    ("cublas", "libcublasLt.so.11"),
    ("cublas", "libcublas.so.11"),
    ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"),
    ("cusparse", "libcusparse.so.11"),
    ("cusolver", "libcusolver.so.11"),
    ("cudnn", "libcudnn.so.8"),
    ("nccl", "libnccl.so.2"),
)

# mxnet-cu112 holds machine code for sm_50 to sm_86 and no PTX: 8.9 runs it, 9.0 and later cannot.
OLDEST_CAPABILITY, FIRST_UNSUPPORTED_CAPABILITY = (5, 0), (9, 0)

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


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _load_nvidia_libraries() -> None:
    """Load the NVIDIA wheels' libraries where libmxnet finds them; one that is absent may come from the system."""
    for folder, library in NVIDIA_LIBRARIES:
        for entry in sys.path:
            path = Path(entry) / "nvidia" / folder / "lib" / library
            if path.is_file():
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                break


def import_mxnet() -> ModuleType:
    """Import MXNet 1.9.1 with what it needs in place. Raises ConfsegError saying what to install."""
    _add_old_numpy_names()
    _set_threads()
    try:
        if _has_distribution("mxnet-cu112"):
            _load_nvidia_libraries()
        with warnings.catch_warnings():
            _silence_known_warnings()
            import mxnet
            import mxnet.contrib.amp  # `import mxnet` leaves it out
    except ModuleNotFoundError as error:
        package = "setuptools" if error.name == "distutils" else error.name
        install = CPU_INSTALL if package == "mxnet" else f"pip install {package}"
        raise ConfsegError(f"MXNet cannot be imported, {package} is not installed: {install}") from error
    except OSError as error:
        raise ConfsegError(_explain_missing_library(str(error))) from error
    return mxnet


def _explain_missing_library(message: str) -> str:
    if "libcuda.so" in message:
        return (
            "mxnet-cu112 is installed, but the NVIDIA driver (libcuda.so.1) is not: install the driver, "
            f"or the CPU build: pip uninstall mxnet-cu112; {CPU_INSTALL}"
        )
    if _has_distribution("mxnet-cu112"):
        return f"mxnet-cu112 lacks an NVIDIA library ({message}): pip install -e '.[gpu]' in the project's folder"
    return f"MXNet's library does not load ({message}): reinstall it: {CPU_INSTALL} --force-reinstall"


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


def gpu_capabilities() -> List[Tuple[str, Tuple[int, int]]]:
    """Name and compute capability of each visible GPU, in CUDA's order; [] where no driver answers."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        return list(_query_gpus(cuda))
    except (OSError, AttributeError):  # no driver, or a library that is not a whole one
        return []


def _query_gpus(cuda: ctypes.CDLL) -> Iterator[Tuple[str, Tuple[int, int]]]:
    capability_major, capability_minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
    count, device, value = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return
    for ordinal in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        name = ctypes.create_string_buffer(128)
        cuda.cuDeviceGetName(name, len(name), device)
        capability = []
        for attribute in (capability_major, capability_minor):
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            capability.append(value.value)
        yield name.value.decode("utf-8", "replace"), (capability[0], capability[1])


def _has_cuda() -> bool:
    return mx.runtime.Features().is_enabled("CUDA")


def _gpu_problem(index: int) -> str:
    """Why MXNet cannot use GPU `index`, with what to do; "" where it can."""
    if not _has_cuda():
        return f"gpu:{index} was asked for, but this MXNet is the CPU build: for the GPU build, {GPU_INSTALL}"
    gpus = gpu_capabilities()
    if index >= len(gpus):
        there = ", ".join(f"gpu:{i} ({name})" for i, (name, _) in enumerate(gpus)) or "no GPU"
        return f"gpu:{index} is not there: this machine shows {there}; choose another device or cpu:0"
    name, capability = gpus[index]
    if not OLDEST_CAPABILITY <= capability < FIRST_UNSUPPORTED_CAPABILITY:
        return (
            f"gpu:{index} ({name}, compute capability {capability[0]}.{capability[1]}) cannot run mxnet-cu112 1.9.1, "
            "which was built for 5.0 to 8.9; choose another GPU or cpu:0"
        )
    return ""


def _auto_devices() -> List[str]:
    """Every GPU that MXNet can use, else the CPU; a GPU that is left out is logged."""
    problems = [_gpu_problem(index) for index in range(len(gpu_capabilities()))] if _has_cuda() else []
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


def versions() -> Dict[str, str]:
    """Versions of what decides a result, for its record; packages that are absent are left out."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    # From the metadata: gluoncv.__version__ says 0.11.0 in 0.10.5.post0.
    for package in ("numpy", "mxnet", "mxnet-cu112", "gluoncv", "opencv-python", "opencv-python-headless"):
        if _has_distribution(package):
            found[package] = importlib.metadata.version(package)
    return found
