"""Options that several verbs have, and what they mean."""

from typing import Any, Dict, List, Optional

import click

from .errors import ConfsegError
from .options import parse_scales, parse_size

gpus_option = click.option("--gpus", metavar="0,1", help="GPUs to use. Default: all that MXNet can use, else the CPU.")
cpu_option = click.option("--cpu", is_flag=True, help="Use the CPU.")
scales_option = click.option(
    "--scales",
    metavar="LIST",
    default="1",
    help="Average the probabilities over these scales, as in 0.75,1,1.25.",
)
flip_option = click.option(
    "--flip", is_flag=True, help="Add the left-right flipped image. Default: as in the run's config."
)
window_option = click.option(
    "--window",
    metavar="HxW",
    help="Slide a window of this size, overlapping by a third, over each image. Default: as in the run's config.",
)
restart_option = click.option(
    "--restart",
    is_flag=True,
    help="Do again what was finished or begun with other settings, data or versions, and what follows from it.",
)
allow_different_option = click.option(
    "--allow-different",
    is_flag=True,
    help="Keep and continue what was finished or begun so; the results then name the differences.",
)


def device_names(gpus: Optional[str], cpu: bool) -> List[str]:
    """The devices of --gpus and --cpu; ["auto"] without either."""
    if gpus is not None and cpu:
        raise ConfsegError("--gpus and --cpu exclude each other; give one")
    if cpu:
        return ["cpu:0"]
    if gpus is None:
        return ["auto"]
    numbers = gpus.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ConfsegError(f"--gpus {gpus}: wants numbers separated by commas, for example --gpus 0,1")
    return [f"gpu:{int(number)}" for number in numbers]


def device_setting(gpus: Optional[str], cpu: bool) -> List[str]:
    """The `devices` override of --gpus and --cpu."""
    names = device_names(gpus, cpu)
    return [] if names == ["auto"] else [f"devices=[{', '.join(names)}]"]


def manner_options(scales: str, flip: bool, window: Optional[str]) -> Dict[str, Any]:
    """How the network is used, by --scales, --flip and --window."""
    size = None
    if window is not None:
        from .config import MIN_WINDOW  # pydantic takes a while

        size = parse_size(window, "--window", MIN_WINDOW)
    return {"scales": parse_scales(scales), "flip": flip, "window": size}
