"""Full disks, missing rights, broken disks: under_faults.py in a process whose file layer fails on demand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def under_faults(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("needs a C compiler, for a file layer that fails")
    layer = tmp_path_factory.mktemp("layer") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(layer), str(HERE / "faults.c"), "-ldl"], check=True)

    def run(*options, **variables):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "under_faults.py")]
        environment = {**os.environ, "LD_PRELOAD": str(layer), **variables}
        done = subprocess.run([*command, *options], env=environment, stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stdout

    return run


def test_writers_readers_and_a_run_under_faults(under_faults):
    under_faults()


@pytest.mark.slow
def test_a_run_under_many_faults(under_faults):
    under_faults("-k", "a_run_goes_on", UNDER_FAULTS="10")
