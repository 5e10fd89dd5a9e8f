"""What mxnet-cu112 needs of NVIDIA: its libraries, the driver and a GPU that it has code for. Known without MXNet."""

import ctypes
import os
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from .packages import bounded, installed

GPU_BUILD = "mxnet-cu112"
DRIVER_LIBRARY = "libcuda.so.1"

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

# CUDA 11.x programs run on the driver of any CUDA 11; from CUDA's release notes, "minor version compatibility".
OLDEST_DRIVER, OLDEST_DRIVER_NAME = (11, 0), "450.80.02"


class Driver(NamedTuple):
    """What the NVIDIA driver says: the newest CUDA version it runs, (0, 0) where unknown, and the GPUs in CUDA's order.

    Each GPU is its name and compute capability. `problem` says why no GPU is shown; "" where there is one.
    """

    problem: str
    cuda: Tuple[int, int] = (0, 0)
    gpus: Tuple[Tuple[str, Tuple[int, int]], ...] = ()


def wheel_library(folder: str, library: str) -> Optional[Path]:
    """The library's file in an NVIDIA wheel; None where no wheel brings it."""
    for entry in sys.path:
        path = Path(entry) / "nvidia" / folder / "lib" / library
        if path.is_file():
            return path
    return None


def wheel_name(folder: str) -> str:
    """The package that brings a folder of NVIDIA_LIBRARIES."""
    return f"nvidia-{folder.replace('_', '-')}-cu11"


def wheel_install(library: str) -> str:
    """The command that installs the wheel of one of NVIDIA_LIBRARIES, within setup.py's bounds."""
    folder = next(folder for folder, name in NVIDIA_LIBRARIES if name == library)
    return f"pip install --force-reinstall --no-deps {bounded(wheel_name(folder))}"


def compiler_version() -> Tuple[int, int]:
    """CUDA version of the wheel's run-time compiler (nvrtc), whose PTX the driver must know; (0, 0) without it."""
    major, minor = (installed(wheel_name("cuda_nvrtc")) or "0.0").split(".")[:2]
    return (int(major), int(minor))


def load_libraries() -> None:
    """Load the NVIDIA wheels' libraries where libmxnet finds them; one that is absent may come from the system.

    Raises OSError for one that is there and does not load.
    """
    for folder, library in NVIDIA_LIBRARIES:
        path = wheel_library(folder, library)
        if path is not None:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def can_run(capability: Tuple[int, int]) -> bool:
    """Whether mxnet-cu112 has machine code for a GPU of this compute capability."""
    return OLDEST_CAPABILITY <= capability < FIRST_UNSUPPORTED_CAPABILITY


def query_driver() -> Driver:
    """Ask the NVIDIA driver what it is and which GPUs it shows; never raises."""
    try:
        cuda = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        absent = "No such file" in str(error)
        return Driver("no NVIDIA driver is installed" if absent else f"the NVIDIA driver does not load ({error})")
    try:
        return _query(cuda)
    except AttributeError as error:
        return Driver(f"{DRIVER_LIBRARY} is not a whole NVIDIA driver ({error})")


def _query(cuda: ctypes.CDLL) -> Driver:
    number = ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number))
    if status != 0:
        return Driver(f"the NVIDIA driver shows no GPU ({_error_text(cuda, status)}){_hidden_gpus()}", version)
    if number.value == 0:
        return Driver(f"the NVIDIA driver shows no GPU{_hidden_gpus()}", version)
    return Driver("", version, tuple(_gpu(cuda, ordinal) for ordinal in range(number.value)))


def _error_text(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    known = cuda.cuGetErrorString(status, ctypes.byref(text)) == 0 and text.value
    return f"CUDA error {status}" + (f": {text.value.decode('utf-8', 'replace')}" if known else "")


def _hidden_gpus() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"


def _gpu(cuda: ctypes.CDLL, ordinal: int) -> Tuple[str, Tuple[int, int]]:
    capability_major, capability_minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
    device, value = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    name = ctypes.create_string_buffer(128)
    cuda.cuDeviceGetName(name, len(name), device)
    capability: List[int] = []
    for attribute in (capability_major, capability_minor):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return name.value.decode("utf-8", "replace"), (capability[0], capability[1])
