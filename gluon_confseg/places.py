"""Where the environment says that data sets and caches are."""

import os
from pathlib import Path

ROOT_VARIABLES = {"cityscapes": "CITYSCAPES_DATASET", "voc": "VOC_ROOT", "camvid": "CAMVID_ROOT"}


def cache_folder() -> Path:
    """The user's folder for built-in data: $XDG_CACHE_HOME/gluon_confseg, else ~/.cache/gluon_confseg."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gluon_confseg"


def decoded_folder() -> Path:
    """Where runs keep decoded images for each other (data.disk_cache_megabytes)."""
    return cache_folder() / "decoded"
