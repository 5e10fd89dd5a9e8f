"""cuda.py: what the NVIDIA driver and wheels are asked, without a GPU."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from gluon_confseg import cuda

STUB = """
from gluon_confseg.cuda import query_driver
print(tuple(query_driver()))
"""


def ask_driver(folder, monkeypatch, **variables):
    """What query_driver() says of the driver library in `folder`, which only a new process loads."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    root = str(Path(cuda.__file__).resolve().parents[1])
    return eval(subprocess.run([sys.executable, "-c", STUB], cwd=root, stdout=subprocess.PIPE, check=True).stdout)


def test_driver_is_asked_for_version_names_and_capabilities(stub_driver, monkeypatch):
    gpus = {"STUB_GPUS": "NVIDIA A10=8.6;NVIDIA H100=9.0", "STUB_CUDA": "11040"}
    expected = ("", (11, 4), (("NVIDIA A10", (8, 6)), ("NVIDIA H100", (9, 0))))
    assert ask_driver(stub_driver, monkeypatch, **gpus) == expected


def test_driver_without_a_gpu_says_why(stub_driver, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = "the NVIDIA driver shows no GPU (CUDA error 100: no CUDA-capable device is detected)"
    assert ask_driver(stub_driver, monkeypatch) == (reason, (12, 4), ())
    hidden = ask_driver(stub_driver, monkeypatch, CUDA_VISIBLE_DEVICES="")
    assert hidden == (f"{reason} with CUDA_VISIBLE_DEVICES=''", (12, 4), ())


def test_driver_that_is_no_library(monkeypatch, tmp_path):
    (tmp_path / "libcuda.so.1").write_text("no library")
    problem, version, gpus = ask_driver(tmp_path, monkeypatch)
    assert problem.startswith("the NVIDIA driver does not load (") and (version, gpus) == ((0, 0), ())


def test_no_driver_and_half_a_driver(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert cuda.query_driver().problem.startswith("libcuda.so.1 is not a whole NVIDIA driver (")

    def absent(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert cuda.query_driver() == ("no NVIDIA driver is installed", (0, 0), ())


@pytest.mark.parametrize("capability, runs", [((3, 7), False), ((5, 0), True), ((8, 9), True), ((9, 0), False)])
def test_compute_capability(capability, runs):
    assert cuda.can_run(capability) == runs


def test_nvidia_libraries_load_globally_and_in_order(monkeypatch, tmp_path):
    names = [("cudnn", "libcudnn.so.8"), ("cublas", "libcublas.so.11"), ("cublas", "libcublasLt.so.11")]
    for folder, library in names:
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True, exist_ok=True)
        (tmp_path / "nvidia" / folder / "lib" / library).touch()
    loaded = []
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append((Path(path).name, mode)))
    cuda.load_libraries()
    order = ["libcublasLt.so.11", "libcublas.so.11", "libcudnn.so.8"]
    assert loaded == [(name, ctypes.RTLD_GLOBAL) for name in order]


def test_every_library_has_a_wheel_within_bounds(monkeypatch):
    setup = (Path(__file__).resolve().parents[1] / "setup.py").read_text(encoding="utf-8")
    wheels = {cuda.wheel_name(folder) for folder, _ in cuda.NVIDIA_LIBRARIES}
    assert all(f'"{wheel}>=' in setup for wheel in wheels) and len(wheels) == 10
    monkeypatch.setattr(cuda, "bounded", lambda name: f"'{name}<9'")
    expected = "pip install --force-reinstall --no-deps 'nvidia-cudnn-cu11<9'"
    assert cuda.wheel_install("libcudnn.so.8") == expected
