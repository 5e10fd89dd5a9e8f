"""`confseg doctor`: a healthy machine, and each thing that is commonly missing, with the line that mends it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from gluon_confseg import cuda, doctor, packages, probes

ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", "total used free")
GIB = 2**30

# As much of MXNet as the probe asks for: a GPU build without its gigabytes.
FAKE_MXNET = """
from types import SimpleNamespace as N
__version__, MXNetError = "1.9.1", RuntimeError
class Features(dict):
    def is_enabled(self, name): return True
runtime = N(Features=lambda: Features(CUDA=N(name="CUDA", enabled=True), CUDNN=N(name="CUDNN", enabled=True)))
context = N(num_gpus=lambda: 2)
nd = N(ones=lambda shape: N(sum=lambda: N(asscalar=lambda: 6.0)))
"""


@pytest.fixture
def confseg_doctor(monkeypatch, tmp_path):
    """Run the command with `tmp_path/site` before all other packages: (exit code, output)."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))

    def call():
        command = [sys.executable, "-c", "from gluon_confseg.cli import main; main()", "doctor"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        result = subprocess.run(command, cwd=str(tmp_path), timeout=120, **pipes)
        assert result.stderr == b""
        return result.returncode, result.stdout.decode()

    return call


def add(folder, files):
    for name, text in files.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def metadata(name, version):
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}


def fixes(output, name):
    """What is printed below the marked line that begins with `name`."""
    found = output.splitlines()
    return [
        found[index + 1].split("-> ")[1]
        for index, line in enumerate(found)
        if line[:1] in (doctor.NOTE, doctor.PROBLEM) and line[2:].startswith(name)
    ]


def test_healthy_machine(confseg_doctor):
    code, output = confseg_doctor()
    assert code == 0 and "\nnothing prevents running" in output
    assert f"  {'MXNet':26} 1.9.1 (mxnet" in output and "MKLDNN" in output
    assert not [line for line in output.splitlines() if line.startswith(doctor.PROBLEM)]
    for name in ("Python", "numpy", "CPUs", "working folder", "temporary folder", "built-in data's folder", "VOC_ROOT"):
        assert f"\n  {name:26} " in f"\n{output}"


@pytest.mark.parametrize(
    "files, name, mend",
    [
        ({"mxnet/__init__.py": "raise ModuleNotFoundError(name='mxnet')"}, "MXNet  ", "pip install mxnet==1.9.1"),
        ({"mxnet/__init__.py": "import graphvis"}, "MXNet  ", "pip install graphvis"),
        ({"mxnet/__init__.py": "import os; os.abort()"}, "MXNet  ", "crashed with SIGABRT: pip install --force-reinst"),
        ({"mxnet/__init__.py": "raise KeyError('a\\nb')"}, "MXNet  ", "KeyError: 'a\\nb': pip install --force-reinst"),
        ({"mxnet/__init__.py": "raise OSError('libgomp.so.1: cannot open')"}, "MXNet  ", "apt install libgomp1"),
        ({"mxnet/__init__.py": "raise RuntimeError('Cannot find the MXNet library')"}, "MXNet  ", "--force-reinstall"),
        ({"numpy/__init__.py": "__version__ = '2.1.0'"}, "MXNet  ", "NumPy 2.1.0 is too new for MXNet 1.9.1"),
        ({"numpy/__init__.py": "raise ModuleNotFoundError(name='numpy')"}, "MXNet  ", "pip install 'numpy<2"),
        ({"cv2.py": "raise ImportError('libGL.so.1: cannot open')"}, "OpenCV", "'opencv-python-headless<4.12"),
        ({"cv2.py": "raise ModuleNotFoundError(name='cv2')"}, "OpenCV", "pip install 'opencv-python<4.12"),
        (metadata("numpy", "2.1.0"), "numpy", "pip install 'numpy<2"),
        (metadata("mxnet-cu112", "1.9.1"), "MXNet builds", "pip uninstall -y mxnet mxnet-cu112"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_broken_installation(confseg_doctor, tmp_path, files, name, mend):
    add(tmp_path, files)
    code, output = confseg_doctor()
    assert code == 1 and "\nX prevents running: " in output
    assert mend in fixes(output, name)[0]
    assert "CAMVID_ROOT" in output  # all the rest is still there


def gpu_build(tmp_path, missing=()):
    """mxnet-cu112 as pip sees it, with libraries that load and do nothing, but for those `missing`."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc, to make libraries that do nothing")
    add(tmp_path, {"mxnet.py": FAKE_MXNET, **metadata("mxnet-cu112", "1.9.1")})
    add(tmp_path, metadata("nvidia-cudnn-cu11", "8.9.6.50"))
    add(tmp_path, metadata("nvidia-cuda-nvrtc-cu11", "11.8.89"))
    (tmp_path / "empty.c").write_text("")
    subprocess.run(["gcc", "-shared", "-o", str(tmp_path / "empty.so"), str(tmp_path / "empty.c")], check=True)
    for folder, library in cuda.NVIDIA_LIBRARIES:
        if library not in missing:
            path = tmp_path / "site" / "nvidia" / folder / "lib" / library
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(tmp_path / "empty.so"), str(path))


def test_gpus_of_the_gpu_build(confseg_doctor, tmp_path, stub_driver, monkeypatch):
    gpu_build(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_driver))
    monkeypatch.setenv("STUB_GPUS", "NVIDIA A10=8.6;NVIDIA H100=9.0")
    _, output = confseg_doctor()
    assert "  libcudnn.so.8              wheel: nvidia-cudnn-cu11 8.9.6.50\n" in output
    assert "  NVIDIA driver              for CUDA up to 12.4\n" in output
    assert "  gpu:0                      NVIDIA A10, compute capability 8.6\n" in output
    assert "! gpu:1                      NVIDIA H100, compute capability 9.0: mxnet-cu112 was built for 5.0" in output
    assert fixes(output, "gpu:1") == ["use another GPU (--gpus), or --cpu"]
    monkeypatch.setenv("STUB_CUDA", "11040")
    assert fixes(confseg_doctor()[1], "NVIDIA driver") == ["update the driver, or export MXNET_USE_FUSION=0"]


def test_missing_nvidia_library(confseg_doctor, tmp_path, stub_driver, monkeypatch):
    gpu_build(tmp_path, missing=["libcudnn.so.8"])
    add(tmp_path, {"mxnet.py": "import ctypes; ctypes.CDLL('libcudnn.so.8')"})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_driver))
    code, output = confseg_doctor()
    assert code == 1
    assert "--no-deps 'nvidia-cudnn-cu11" in fixes(output, "libcudnn.so.8")[0]
    assert "mxnet-cu112 lacks an NVIDIA library (libcudnn.so.8: cannot open" in fixes(output, "MXNet  ")[0]


def test_nvidia_library_of_the_system(confseg_doctor, tmp_path, stub_driver, monkeypatch):
    gpu_build(tmp_path, missing=["libcudart.so.11.0"])
    (tmp_path / "cuda").mkdir()
    shutil.copy(str(tmp_path / "empty.so"), str(tmp_path / "cuda/libcudart.so.11.2.152"))
    (tmp_path / "cuda/libcudart.so.11.0").symlink_to("libcudart.so.11.2.152")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{stub_driver}:{tmp_path / 'cuda'}")
    _, output = confseg_doctor()
    assert f"  libcudart.so.11.0          system: {tmp_path}/cuda/libcudart.so.11.2.152\n" in output


def test_gpu_build_without_a_driver(confseg_doctor, tmp_path):
    if "no NVIDIA driver" not in cuda.query_driver().problem:
        pytest.skip("this machine has a driver")
    gpu_build(tmp_path)
    add(tmp_path, {"mxnet.py": "import ctypes; ctypes.CDLL('libcuda.so.1')"})
    code, output = confseg_doctor()
    assert code == 1
    assert (
        "the NVIDIA driver (libcuda.so.1) is not: install the driver, or the CPU build" in fixes(output, "MXNet  ")[0]
    )
    assert fixes(output, "NVIDIA driver") == ["install the NVIDIA driver 450.80.02 or newer"]


def gpu(problem="", version=(12, 4), gpus=(), gpu_build=True):
    return list(doctor.gpu_findings({"driver": [problem, version, gpus], "libraries": []}, gpu_build))


def test_driver(monkeypatch):
    monkeypatch.setattr(cuda, "compiler_version", lambda: (11, 8))
    assert gpu(gpus=[["A10", [8, 6]]])[0].level == doctor.OK
    assert "450.80.02" in gpu(version=(10, 2), gpus=[["A10", [8, 6]]])[0].fix
    assert "nvidia-smi" in gpu("the NVIDIA driver shows no GPU (CUDA error 999)")[0].fix
    assert gpu("shows no GPU with CUDA_VISIBLE_DEVICES=''")[0].fix == "unset CUDA_VISIBLE_DEVICES"


def test_gpu_beside_the_cpu_build():
    (found,) = gpu(gpus=[["A10", [8, 6]], ["H100", [9, 0]]], gpu_build=False)
    assert found.level == doctor.NOTE and found.value.startswith("A10: not used") and cuda.GPU_INSTALL in found.fix
    (found,) = gpu(gpus=[["H100", [9, 0]]], gpu_build=False)
    assert found == ("GPU", "none that MXNet 1.9.1 can use", doctor.OK, "")


def test_driver_that_crashes_or_is_refused():
    (found,) = doctor.gpu_findings({"error": "crashed with SIGSEGV", "unexpected": True}, True)
    assert found.level == doctor.NOTE and "--cpu" in found.fix
    facts = {"version": "1.9.1", "features": ["CUDA"], "runtime_problem": "CUDA 11 refuses its driver (insufficient)"}
    refused = list(doctor.mxnet_findings(facts))[-1]
    assert refused.level == doctor.NOTE and "update the driver" in refused.fix


def test_probe_that_hangs_is_ended(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n")
    with open(str(tmp_path / "cv2.py"), "a") as handle:
        handle.write("time.sleep(600)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *sys.path])
    monkeypatch.setattr(probes, "SECONDS", 2)
    assert probes.ask(["opencv"]) == {"opencv": {"error": "no answer within 2 s", "unexpected": True}}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def test_optional_package_out_of_bounds(monkeypatch):
    requires = [
        "onnx<1.19,>=1.16; extra == 'onnx'",
        "onnxruntime; extra == 'onnx'",
        "ruff; extra == 'test'",
        "click>=8",
    ]
    versions = {"onnx": "1.19.1", "click": "8.1", "gluon-confseg": "1"}
    monkeypatch.setattr(doctor, "installed", versions.get)
    monkeypatch.setattr(packages, "requirements", lambda: requires)
    onnx, runtime, others = doctor.package_findings(requires)
    assert onnx.level == doctor.NOTE and onnx.fix == "pip install 'onnx<1.19,>=1.16'"
    assert runtime.level == doctor.OK and runtime.value.endswith("pip install 'onnxruntime'")
    assert others.value.startswith("1 within")
    versions["click"] = "7.1"
    assert list(doctor.package_findings(requires))[-2][2:] == (doctor.PROBLEM, "pip install 'click>=8'")


def test_not_installed_and_no_packaging(monkeypatch):
    (found,) = doctor.package_findings(None)
    assert found.level == doctor.NOTE and "pip install -e" in found.fix
    for name in ("packaging", "packaging.requirements"):
        monkeypatch.setitem(sys.modules, name, None)
    (found,) = doctor.package_findings(["click>=8"])
    assert found.fix == "pip install packaging"


@pytest.mark.parametrize("free, level", [(50 * GIB, doctor.OK), (GIB, doctor.NOTE), (GIB // 10, doctor.PROBLEM)])
def test_disk(monkeypatch, tmp_path, free, level):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not/yet/there"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100 * GIB, 0, free))
    working, temporary, cache = doctor.disk_findings()
    assert {working.level, temporary.level, cache.level} == {level}
    if level != doctor.OK:
        assert "--output DIR" in working.fix and "TMPDIR=DIR" in temporary.fix and "XDG_CACHE_HOME=DIR" in cache.fix
    assert f"{tmp_path}/not/yet/there/gluon_confseg: " in cache.value


def test_folders_that_cannot_be_used(monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    working, temporary, cache = doctor.disk_findings()
    assert working.level == temporary.level == cache.level == doctor.PROBLEM
    assert "cannot be written to" in working.value and "No usable temporary" in temporary.value


def test_data_set_variables(confseg_doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    monkeypatch.setenv("CAMVID_ROOT", str(tmp_path / "nowhere"))
    code, output = confseg_doctor()
    assert code == 1 and f"  VOC_ROOT                   {tmp_path}\n" in output
    assert f"X CAMVID_ROOT                {tmp_path / 'nowhere'} is no folder\n" in output
    assert fixes(output, "CAMVID_ROOT") == ["set it to the data set's folder, or unset CAMVID_ROOT"]


def test_shared_memory(monkeypatch, tmp_path):
    (found,) = doctor.memory_findings(str(tmp_path / "shm"))
    assert found.level == doctor.NOTE and "is not there" in found.value
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(GIB, 0, 64 << 20))
    (found,) = doctor.memory_findings(str(tmp_path))
    assert found.value.startswith("64 MiB free of 1.0 GiB") and "--shm-size=1g" in found.fix


@pytest.mark.parametrize(
    "wanted, given, value, level",
    [
        ("", "2", "4; OMP_NUM_THREADS is not set: MXNet takes 2", doctor.OK),
        ("4", "4", "4; OMP_NUM_THREADS 4", doctor.OK),
        ("8", "8", "4; OMP_NUM_THREADS 8", doctor.NOTE),
        ("", "8", "4; OMP_NUM_THREADS is not set: MXNet takes 8", doctor.NOTE),  # of a container's limit
        ("", None, "4; OMP_NUM_THREADS is not set", doctor.OK),  # MXNet does not import
    ],
)
def test_threads(monkeypatch, wanted, given, value, level):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr(doctor, "_cpus", lambda: (4, ""))
    (found,) = doctor.thread_findings(given)
    assert (found.value, found.level) == (value, level)
    assert ("export OMP_NUM_THREADS=4" in found.fix) == (level == doctor.NOTE)


@pytest.mark.parametrize(
    "limit, expected", [("max 100000", (8, "")), ("250000 100000", (2, " by the container's limit"))]
)
def test_cpus_of_a_container(monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(Path, "read_text", lambda path: limit)
    assert doctor._cpus() == expected


def test_other_platform_and_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert next(doctor.python_findings()).level == doctor.PROBLEM
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    assert next(doctor.python_findings()).level == doctor.NOTE
