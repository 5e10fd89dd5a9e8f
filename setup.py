"""Metadata and dependencies of gluon_confseg; pyproject.toml holds tool settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "gluon_confseg/__init__.py").read_text(), re.MULTILINE).group(1)

REQUIRES = [
    "numpy>=1.20,<2",  # MXNet 1.9.1 uses names that NumPy 2 removed
    "scipy>=1.5",
    "matplotlib>=3.7",  # legends outside the axes
    "Pillow>=8",
    "opencv-python>=4.5.5,<4.12",  # from 4.12 it asks for NumPy 2; GluonCV asks for this build, not the headless one
    "PyYAML>=5.4.1",
    "pydantic>=2.5,<3",
    "typing_extensions>=4.6",
    "click>=8",
    "packaging>=20",
    "tqdm>=4.60",
    "tabulate>=0.9",
    "Jinja2>=3",
    "gluoncv==0.10.5.post0",  # the last release with MXNet models
    "setuptools",  # MXNet and GluonCV import distutils, which left the standard library in Python 3.12
]

# onnx 1.19 removed onnx.mapping, which MXNet's exporter uses; new onnxruntimes import ml_dtypes to quantise
ONNX = ["onnx>=1.16,<1.19", "onnxruntime", "ml_dtypes"]

CITYSCAPES = ["cityscapesScripts>=2.2"]  # the official evaluator

EXTRAS = {
    "cpu": ["mxnet==1.9.1"],
    # The wheel bundles no NVIDIA library; these are what it links, and backend.py loads them.
    "gpu": [
        "mxnet-cu112==1.9.1",
        "nvidia-cublas-cu11>=11.10,<12",
        "nvidia-cuda-nvrtc-cu11>=11.7,<12",
        "nvidia-cuda-runtime-cu11>=11.7,<12",
        "nvidia-cudnn-cu11>=8.5,<9",  # it links libcudnn.so.8
        "nvidia-cufft-cu11>=10.7,<11",
        "nvidia-curand-cu11>=10.2,<11",
        "nvidia-cusolver-cu11>=11.4,<12",
        "nvidia-cusparse-cu11>=11.7,<12",
        "nvidia-nccl-cu11>=2.14,<3",
        "nvidia-nvtx-cu11>=11.7,<12",
    ],
    "onnx": ONNX,
    "cityscapes": CITYSCAPES,
    "notebook": ["jupyterlab>=3"],
    "test": [
        *ONNX,
        *CITYSCAPES,
        "pytest>=7",
        "hypothesis>=6",
        "ruff>=0.17,<0.18",
        "scikit-learn>=1",
        "nbclient>=0.6",
        "ipykernel>=6",
    ],
}

setup(
    name="gluon-confseg",
    version=VERSION,
    description="Networks that explicitly reduce confusion errors in semantic segmentation, for MXNet/Gluon",
    license="Apache-2.0",
    packages=find_packages(include=["gluon_confseg", "gluon_confseg.*"]),
    package_data={"gluon_confseg": ["templates/*.html"]},
    python_requires=">=3.8,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["confseg = gluon_confseg.cli:main"]},
)
