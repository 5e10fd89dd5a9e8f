"""backend.py: MXNet and GluonCV import on this Python, devices are what was asked for, errors say what to do."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from gluon_confseg import backend
from gluon_confseg.backend import devices, mx
from gluon_confseg.cuda import Driver
from gluon_confseg.errors import ConfsegError

ROOT = Path(__file__).resolve().parents[1]
KEPLER, AMPERE, ADA, HOPPER = ("K80", (3, 7)), ("A100", (8, 0)), ("L4", (8, 9)), ("H100", (9, 0))


def run_python(code, *options, path=None):
    """stdout of `code` in a fresh interpreter, which must write nothing to stderr."""
    search = os.pathsep.join(str(entry) for entry in (path, ROOT) if entry)
    result = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that this is the GPU build, and that the given GPUs are there."""

    def pretend(*capabilities):
        monkeypatch.setattr(backend, "_has_cuda", lambda: True)
        monkeypatch.setattr(backend, "runtime_problem", lambda: "")
        problem = "" if capabilities else "the NVIDIA driver shows no GPU"
        monkeypatch.setattr(backend, "query_driver", lambda: Driver(problem, (12, 4), capabilities))

    return pretend


def message(function, *args):
    with pytest.raises(ConfsegError) as caught:
        function(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_mxnet_computes():
    assert mx.__version__ == "1.9.1"
    assert (mx.nd.array([1, 2]) * 3).asnumpy().tolist() == [3, 6]


def test_numpy_has_the_names_that_mxnet_uses():
    assert numpy.bool is bool and numpy.float is float


def test_numpy_2_is_refused(monkeypatch):
    monkeypatch.setattr(numpy, "__version__", "2.1.0")
    assert message(backend.import_mxnet) == "NumPy 2.1.0 is too new for MXNet 1.9.1: pip install 'numpy<2'"


def test_imports_are_silent_and_leave_the_filters_alone():
    code = """
import warnings, numpy, scipy.stats, matplotlib.pyplot
before = list(warnings.filters)
from gluon_confseg.backend import import_gluoncv
import_gluoncv()
from warnings import filters
print([f for f in before if f not in filters])
"""
    assert (
        run_python(code, "-W", "always::DeprecationWarning:mxnet", "-W", "always::DeprecationWarning:gluoncv") == "[]\n"
    )


def test_missing_mxnet_says_what_to_install():
    code = """
import sys
sys.modules["mxnet"] = None
try:
    import gluon_confseg.backend
except ValueError as error:
    print(type(error).__name__, error)
"""
    expected = "ConfsegError MXNet cannot be imported, mxnet is not installed: pip install mxnet==1.9.1\n"
    assert run_python(code) == expected


@pytest.mark.parametrize(
    "loader_says, user_reads",
    [
        ("libcuda.so.1: cannot open shared object file", "the NVIDIA driver (libcuda.so.1) is not: install the driver"),
        ("libgfortran.so.3: cannot open shared object file", "MXNet's library does not load (libgfortran.so.3"),
        ("libquadmath.so.0: cannot open shared object file", "of the system: apt install libquadmath0"),
        ("libcudnn.so.8: cannot open shared object file", "--no-deps 'nvidia-cudnn-cu11<9,>=8.5'"),
        ("/venv/nvidia/nccl/lib/libnccl.so.2: file too short", "--no-deps 'nvidia-nccl-cu11<3,>=2.14'"),
    ],
)
def test_library_that_does_not_load(tmp_path, loader_says, user_reads):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet/__init__.py").write_text(f"raise OSError({loader_says!r})\n")
    code = """
try:
    import gluon_confseg.backend
except ValueError as error:
    print(type(error).__name__, error)
"""
    printed = run_python(code, path=tmp_path)
    assert printed.startswith("ConfsegError ") and user_reads in printed


def test_gluoncv_beside_pytorch_2():
    code = """
import sys, types
from gluon_confseg.backend import import_gluoncv
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.__version__, torch.Tensor = "2.13.0", type("Tensor", (), {})
part = sys.modules["torch.nn"] = types.ModuleType("torch.nn")
gluoncv = import_gluoncv()
print(type(gluoncv.model_zoo.get_model("resnet18_v1b")).__name__)
print(sys.modules["torch"] is torch, sys.modules["torch.nn"] is part, import_gluoncv() is gluoncv)
"""
    assert run_python(code) == "ResNetV1b\nTrue True True\n"


def test_gluoncv_does_not_hide_torch():
    code = """
import sys
from gluon_confseg.backend import import_gluoncv
import_gluoncv()
print("torch" in sys.modules)
"""
    assert run_python(code) == "False\n"


def test_cpu_devices():
    assert devices("cpu:0,cpu:1") == devices(["cpu:0", "cpu:1"]) == [mx.cpu(0), mx.cpu(1)]
    assert devices("cpu") == [mx.cpu(0)]


@pytest.mark.parametrize("spec", ["tpu:0", "cpu:", "cpu:x", "cpu:-1", "auto,cpu:0", ""])
def test_what_is_no_device(spec):
    assert "is not a device; write auto, cpu:0 or gpu:0" in message(devices, spec)


def test_no_device_and_one_device_twice():
    assert "the list is empty" in message(devices, [])
    assert "cpu:1 is listed twice" in message(devices, ["cpu:0", "cpu:1", "cpu:1"])
    assert "cpu:0 is listed twice" in message(devices, "cpu,cpu:0")


@pytest.mark.skipif(backend._has_cuda(), reason="about the CPU build")
def test_cpu_build_asked_for_a_gpu():
    text = message(devices, "gpu:0")
    assert "this MXNet is the CPU build" in text and "tools/run_experiment.sh without --cpu" in text
    assert devices("auto") == [mx.cpu(0)]


def test_absent_gpu_is_named_with_what_is_there(gpus):
    gpus(AMPERE, ADA)
    assert devices(["gpu:1", "gpu:0"]) == [mx.gpu(1), mx.gpu(0)]
    assert "gpu:2 is not there: this machine shows gpu:0 (A100), gpu:1 (L4)" in message(devices, "gpu:2")
    gpus()
    assert "gpu:0 is not there: the NVIDIA driver shows no GPU; choose" in message(devices, "gpu:0")


@pytest.mark.parametrize(
    "gpu, usable", [(("K80", (3, 7)), False), (("M60", (5, 2)), True), (ADA, True), (HOPPER, False)]
)
def test_compute_capability(gpus, gpu, usable):
    gpus(gpu)
    if usable:
        assert devices("gpu:0") == [mx.gpu(0)]
    else:
        assert f"gpu:0 ({gpu[0]}, compute capability {gpu[1][0]}.{gpu[1][1]}) cannot run" in message(devices, "gpu:0")


def test_driver_that_cuda_refuses(gpus, monkeypatch, caplog):
    def refuse():
        raise mx.MXNetError(
            'Traceback:\n  File "base.h", line 458\n'
            "CUDA: Check failed: e == cudaSuccess (35 vs. 0) : CUDA driver version is insufficient"
        )

    refused = backend.runtime_problem
    gpus(AMPERE)
    monkeypatch.setattr(mx.context, "num_gpus", refuse)
    monkeypatch.setattr(backend, "runtime_problem", refused)
    reason = "gpu:0 (A100) is there, but CUDA 11 refuses its driver (CUDA driver version is insufficient)"
    assert reason in message(devices, "gpu:0")
    assert devices("auto") == [mx.cpu(0)] and reason in caplog.text


def test_auto_takes_every_usable_gpu_and_reports_the_others(gpus, caplog):
    gpus(AMPERE, HOPPER, ADA)
    assert devices("auto") == devices() == devices(["auto"]) == [mx.gpu(0), mx.gpu(2)]
    assert "gpu:1 (H100, compute capability 9.0) cannot run" in caplog.text
    gpus(HOPPER)
    assert devices("auto") == [mx.cpu(0)]
    caplog.clear()
    gpus()
    assert devices("auto") == [mx.cpu(0)]
    assert caplog.messages == ["the NVIDIA driver shows no GPU: the CPU is used; confseg doctor says more"]


@pytest.mark.parametrize("cpus, threads", [(1, "1"), (2, "2"), (4, "4"), (6, "4"), (64, "32")])
def test_threads(monkeypatch, cpus, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    backend._set_threads()
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_threads_chosen_by_the_user_stay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    backend._set_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_versions():
    found = backend.versions()
    assert found["gluoncv"] == "0.10.5.post0"  # the package itself says 0.11.0
    assert found["numpy"] == numpy.__version__
    assert found["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert "1.9.1" in (found.get("mxnet"), found.get("mxnet-cu112"))
    assert any(name.startswith("opencv-python") for name in found)
