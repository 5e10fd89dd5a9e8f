"""Exported folders run in environments of their own: MXNet and NumPy only, onnxruntime and NumPy only.

Slow, and needs a package index: each environment is made with venv and pip.
"""

import subprocess
import sys

import numpy as np
import pytest
from test_export import contract, images, network, onnx, run, symbol  # noqa: F401  fixtures

pytestmark = pytest.mark.slow

# What is asked for; setuptools: MXNet imports distutils, which left the standard library in Python 3.12
ENVIRONMENTS = {"symbol": ["mxnet==1.9.1", "numpy<2", "setuptools"], "onnx": ["onnxruntime", "numpy"]}
FOREIGN = ("gluon_confseg", "gluoncv", "cv2", "PIL", "scipy", "onnx")


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_the_example_in_an_environment_of_its_own(kind, request, tmp_path):
    folder = (
        request.getfixturevalue("symbol") if kind == "symbol" else request.getfixturevalue("onnx")(tmp_path / "made")
    )
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *ENVIRONMENTS[kind]], check=True)
    foreign = f"import importlib.util as u; print([n for n in {FOREIGN!r} if u.find_spec(n)])"
    there = subprocess.run([python, "-I", "-c", foreign], stdout=subprocess.PIPE, text=True, check=True)
    assert there.stdout.strip() == "[]"
    image = images(32, 48)[0]
    np.save(tmp_path / "image.npy", image)
    example = [python, "-I", str(folder / f"run_{kind}.py"), str(folder)]
    subprocess.run([*example, str(tmp_path / "image.npy"), str(tmp_path / "labels.npy")], check=True)
    labels = np.load(tmp_path / "labels.npy")
    assert labels.dtype == np.uint8 and labels.shape == image.shape[:2]
    assert (labels == network(folder).label_map(image)).mean() > 0.999
    assert labels.max() < len(contract(folder)["classes"])
