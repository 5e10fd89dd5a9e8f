"""The GPU environment without a GPU, made by tools/run_experiment.sh, with a stub of the NVIDIA driver's library.

Downloads 2.5 GB and needs 8 GB of disk while it installs, so it runs only when asked for:

    tools/run_tests.sh tests/test_gpu_install.py -m gpu_install

CONFSEG_GPU_VENV=DIR keeps the environment there, for the next time; otherwise it is removed at the end.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.gpu_install

TRAIN = """
from gluon_confseg.backend import mx, devices
features = mx.runtime.Features()
assert all(features.is_enabled(name) for name in ("CUDA", "CUDNN", "NCCL")), features
assert (mx.nd.array([1, 2]) * 3).asnumpy().tolist() == [3, 6]
network = mx.gluon.nn.HybridSequential()
network.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Conv2D(2, 1))
network.initialize(mx.init.Xavier())
network.hybridize()
with mx.autograd.record():
    loss = (network(mx.nd.random.normal(shape=(2, 3, 8, 8))) ** 2).mean()
loss.backward()
gradient = network[0].weight.grad()
assert gradient.shape == (4, 3, 3, 3) and 0 < gradient.norm().asscalar() < float("inf")
assert devices("auto") == [mx.cpu(0)]
"""

# cuDNN loads its parts when a GPU first needs them, so that import alone does not find one that is missing.
LOAD_EVERY_LIBRARY = """
import ctypes, pathlib, nvidia
from gluon_confseg.backend import mx
files = [file for folder in nvidia.__path__ for file in pathlib.Path(folder).glob("*/lib/*.so*")]
for file in files:
    ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
print(len(files))
"""


@pytest.fixture(scope="module")
def environment(request, stub_driver, tmp_path_factory):
    """Variables for run_experiment.sh: the stub is the driver, and the environment has a folder of its own."""
    if "gpu_install" not in request.config.getoption("markexpr"):
        pytest.skip("downloads 2.5 GB: tools/run_tests.sh tests/test_gpu_install.py -m gpu_install")
    kept = os.environ.get("CONFSEG_GPU_VENV")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("gpu") / "venv"
    left_out = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "STUB_GPUS", "CITYSCAPES_DATASET", "VOC_ROOT", "CAMVID_ROOT")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    variables.update(CONFSEG_VENV=str(folder), LD_LIBRARY_PATH=str(stub_driver))
    variables["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield variables
    if not kept:
        shutil.rmtree(str(folder), ignore_errors=True)


@pytest.fixture(scope="module")
def first_run(environment, tmp_path_factory):
    """What a user without a working GPU sees: the script chooses the GPU build, and its run goes to the CPU."""
    output = tmp_path_factory.mktemp("run") / "run"
    settings = ["augment.crop=[32, 48]", "subnet0.channels=8", "subnet.channels=8"]
    settings += ["baseline={epochs: 1, batch_size: 2}", "subnets={epochs: 1, batch_size: 2}"]
    settings += ["data.built_in={train: 4, val: 2, size: [64, 96]}"]
    command = [str(ROOT / "tools/run_experiment.sh"), "camvid", "--output", str(output)]
    for setting in settings:
        command += ["--set", setting]
    return run(command, environment)


def run(command, variables):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, env=variables, timeout=5400, text=True, **pipes)


def python(environment, code):
    done = run([f"{environment['CONFSEG_VENV']}/bin/python", "-c", code], environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_run_goes_to_the_cpu_and_says_why(first_run, environment):
    assert first_run.returncode == 0, first_run.stdout
    why = "the NVIDIA driver shows no GPU (CUDA error 100: no CUDA-capable device is detected): the CPU is used"
    assert why in first_run.stdout and "devices: cpu(0)" in first_run.stdout
    assert "Traceback" not in first_run.stdout
    stamp = Path(environment["CONFSEG_VENV"], "confseg-stamp").read_text()
    assert stamp.split()[-1] == "gpu"


def test_mxnet_trains_on_the_cpu_with_cuda_compiled_in(first_run, environment):
    python(environment, TRAIN)


def test_every_nvidia_library_loads(first_run, environment):
    assert int(python(environment, LOAD_EVERY_LIBRARY).splitlines()[-1]) >= 20


def test_asking_for_the_gpu_is_refused_in_one_line(first_run, environment, tmp_path):
    confseg = f"{environment['CONFSEG_VENV']}/bin/confseg"
    done = run([confseg, "run", "camvid", "--gpus", "0", "--output", str(tmp_path / "run")], environment)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("confseg: error:")]
    assert done.returncode == 2 and "gpu:0 is not there: the NVIDIA driver shows no GPU" in line
    assert "Traceback" not in done.stdout and not (tmp_path / "run").exists()


def test_gpu_that_cuda_cannot_use_is_one_line(first_run, environment, tmp_path):
    """The stub shows a GPU to the driver's callers but not to CUDA, as a driver does that is too old."""
    confseg = f"{environment['CONFSEG_VENV']}/bin/confseg"
    command = [confseg, "run", "camvid", "--gpus", "0", "--output", str(tmp_path / "run")]
    done = run(command, {**environment, "STUB_GPUS": "A100=8.0"})
    assert done.returncode == 2 and "gpu:0 (A100) is there, but CUDA 11 refuses its driver (" in done.stdout
    assert "Traceback" not in done.stdout


def test_doctor_finds_every_library_in_its_wheel(first_run, environment):
    done = run([f"{environment['CONFSEG_VENV']}/bin/confseg", "doctor"], environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" wheel: nvidia-") == 11 and "CUDA, CUDNN, NCCL" in done.stdout
    assert "! NVIDIA driver              the NVIDIA driver shows no GPU (CUDA error 100" in done.stdout


@pytest.mark.parametrize("command", [["doctor"], ["run", "camvid"]])
def test_without_the_driver_the_error_names_it(first_run, environment, command):
    without = {name: value for name, value in environment.items() if name != "LD_LIBRARY_PATH"}
    load = "import ctypes; ctypes.CDLL('libcuda.so.1')"
    if run([f"{environment['CONFSEG_VENV']}/bin/python", "-c", load], without).returncode == 0:
        pytest.skip("this machine has a driver")
    done = run([f"{environment['CONFSEG_VENV']}/bin/confseg", *command], without)
    assert done.returncode == (1 if command == ["doctor"] else 2)
    assert "mxnet-cu112 is installed, but the NVIDIA driver (libcuda.so.1) is not: install the driver" in done.stdout
    assert "Traceback" not in done.stdout
