"""Settings that must hold before the first test module imports MXNet; a finished run, and the command."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring
os.environ.setdefault("MPLBACKEND", "Agg")
# a shell's background job ignores Ctrl-C, and so would all processes that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_data_set_of_this_machine():
    """The variables that name data sets are for test_data_camvid.py only, which has read its own by now."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CITYSCAPES_DATASET", "VOC_ROOT", "CAMVID_ROOT"):
            patch.delenv(name, raising=False)
        yield


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


@pytest.fixture
def ctrl_c():
    """Sends it to this process, which takes it as in the foreground of a shell: a script's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables for processes that a test file starts: with a cache of its own."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def run(cache, tmp_path_factory):
    """A tiny finished run on the built-in street scenes."""
    from test_end_to_end import command

    folder = tmp_path_factory.mktemp("cityscapes") / "run"
    made = subprocess.run(
        command("cityscapes", folder, "--cpu"),
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def root(run, cache):
    (found,) = (cache / "gluon_confseg").iterdir()
    return found


@pytest.fixture(scope="session")
def splits(tmp_path_factory):
    """Two training images and one for validation, of CamVid's form."""
    from gluon_confseg.data import open_dataset, synthetic

    root = synthetic.ensure("camvid", tmp_path_factory.mktemp("data") / "d", train=2, val=1, size=(32, 32), seed=0)
    return [open_dataset("camvid", root, split) for split in ("train", "val")]


@pytest.fixture
def opened(splits, tmp_path):
    """A run with overrides of settings, always in the same folder, in which nothing has been done yet."""
    from gluon_confseg import config, run
    from gluon_confseg.places import CONFIGS

    def get(*overrides):
        settings = config.load(CONFIGS / "camvid.yaml", overrides)
        return run.Run(settings, tmp_path, splits[0].labels, [], *splits, "built-in")

    return get


@pytest.fixture
def command_line(monkeypatch, capfd):
    """Run the command in this process: (exit code, standard output, standard error)."""
    from gluon_confseg import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["confseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return stop.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def confseg(command_line, monkeypatch, cache, tmp_path):
    """The same on the CPU, in an empty folder, with the built-in scenes of the finished run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command_line(*arguments, "--cpu")
