"""Where this repository has its configs and results, and the environment its data sets and caches."""

import os
from pathlib import Path

from .errors import ConfsegError

CONFIGS = Path(__file__).resolve().parent.parent / "experiments" / "configs"
RESULTS = CONFIGS.parent / "results"
ROOT_VARIABLES = {"cityscapes": "CITYSCAPES_DATASET", "voc": "VOC_ROOT", "camvid": "CAMVID_ROOT"}


def cache_folder() -> Path:
    """The user's folder for built-in data: $XDG_CACHE_HOME/gluon_confseg, else ~/.cache/gluon_confseg."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gluon_confseg"


def decoded_folder() -> Path:
    """Where runs keep decoded images for each other (data.disk_cache_megabytes)."""
    return cache_folder() / "decoded"


def config_path(name: str) -> Path:
    """The YAML that a name or path stands for; ConfsegError lists the names there are."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("[!_]*.yaml"))) or f"none in {CONFIGS}"
        raise ConfsegError(f"there is no config {name!r}; there are: {names}; or give the path of a YAML")
    return path
