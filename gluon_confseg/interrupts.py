"""Ctrl-C: the first asks to stop, the second ends the process at once."""

import contextlib
import os
import signal
import threading
from typing import Callable, Iterator

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


@contextlib.contextmanager
def second_ends(first: str, second: str) -> Iterator[None]:
    """Within, the first Ctrl-C prints `first` besides what it does anyhow; the second prints `second` and exits (130).

    Both happen while the main thread is inside MXNet too, where Python's own handlers have to wait. To be called from
    the main thread. Where Ctrl-C is ignored (nohup), it stays so.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, first, second), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the watcher sees the end of its pipe
        watcher.join()
        os.close(reader)


def _watch(reader: int, first: str, second: str) -> None:
    """Reads the numbers of the signals that arrive, as bytes."""
    messages = iter((first, second))
    for number in iter(lambda: os.read(reader, 1), b""):
        if number[0] != signal.SIGINT:
            continue
        message = next(messages)
        with contextlib.suppress(OSError):
            os.write(2, f"\nconfseg: {message}\n".encode())
        if message is second:
            os._exit(INTERRUPTED)


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C raises nothing; the function that is yielded says whether it came.

    Outside the main thread, and where somebody else handles Ctrl-C or it is ignored, nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
