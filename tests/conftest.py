"""Settings that must hold before the first test module imports MXNet."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def stub_driver(tmp_path_factory):
    """A folder for LD_LIBRARY_PATH, with a libcuda.so.1 that needs no GPU (tests/libcuda_stub.c)."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("needs a C compiler, to make a stub of the NVIDIA driver's library")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("libcuda_stub.c")
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source]
    subprocess.run(list(map(str, command)), check=True)
    return folder
