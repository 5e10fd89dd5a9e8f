"""What pip installed, and what setup.py asked it for."""

import importlib.metadata
from typing import List, Optional

DISTRIBUTION = "gluon-confseg"


def installed(name: str) -> Optional[str]:
    """Version of the package `name` as pip installed it; None where it did not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> Optional[List[str]]:
    """What setup.py asks for, extras included, as in 'onnx<1.19,>=1.16; extra == "onnx"'; None if never installed."""
    return importlib.metadata.requires(DISTRIBUTION) or [] if installed(DISTRIBUTION) else None


def bounded(name: str) -> str:
    """`name` quoted for pip with setup.py's bounds, as in "'numpy<2,>=1.20'"; without bounds where none are known."""
    asked = (line.split(";")[0].replace(" ", "") for line in requirements() or ())  # old setuptools: 'numpy <2'
    found = [line for line in asked if line.startswith(name) and not line[len(name) :][:1].isalnum()]
    return f"'{(found or [name])[0]}'"
