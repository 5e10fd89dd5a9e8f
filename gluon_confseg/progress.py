"""Progress bars, and log messages that do not break them."""

import contextlib
import logging
import sys
from typing import Iterator

from tqdm import tqdm

from .errors import one_line

REDRAW_SECONDS = 0.2
REDRAW_SECONDS_IN_A_FILE = 30.0  # where the bar does not overwrite itself, each redraw is a line


def bar(total: int, title: str, unit: str, *, initial: int = 0, shown: bool = True) -> tqdm:
    """A bar with speed and time left, on standard error."""
    interval = REDRAW_SECONDS if sys.stderr.isatty() else REDRAW_SECONDS_IN_A_FILE
    options = {"dynamic_ncols": True, "mininterval": interval, "disable": not shown}
    return tqdm(total=total, initial=initial, desc=title, unit=unit, **options)


class BarHandler(logging.Handler):
    """Writes messages to standard error, above any bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write("\n".join(map(one_line, self.format(record).split("\n"))), file=sys.stderr)


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """The package's messages go to the screen, above the progress bar."""
    logger, screen = logging.getLogger(__package__), BarHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(screen)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(screen)
