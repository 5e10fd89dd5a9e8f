"""The built-in data set of a config, in the user's cache folder."""

import logging
from pathlib import Path

from ..config import Config
from ..places import ROOT_VARIABLES, cache_folder
from . import synthetic

_log = logging.getLogger(__name__)

NOTICE = (
    "built-in data: no data set was given (--data-root or {variable}), so this run uses synthetic images; "
    "its numbers say nothing about photographs"
)


def built_in_notice(settings: Config) -> str:
    """The warning that goes with every number of built-in data."""
    return NOTICE.format(variable=ROOT_VARIABLES[settings.data.name])


def built_in_root(settings: Config) -> Path:
    """Draw the built-in data set into the user's cache folder, once."""
    wanted = settings.data.built_in
    cache = cache_folder()
    height, width = wanted.size
    name = f"{settings.data.name}-{height}x{width}-{wanted.train}-{wanted.val}-seed{wanted.seed}"
    name += f"-v{synthetic.GENERATOR_VERSION}"
    _log.info("built-in images are in %s (drawn once)", cache / name)
    return synthetic.ensure(
        settings.data.name, cache / name, train=wanted.train, val=wanted.val, size=wanted.size, seed=wanted.seed
    )
