"""Ctrl-C once and twice."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gluon_confseg import interrupts

PROGRAM = """
import hashlib, threading
from gluon_confseg import interrupts
with interrupts.second_ends("first", "second"):
    threading.Timer(0.5, print, ["ready"], {"flush": True}).start()  # by then the main thread is in the long call
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, without a look at signals, as in a long call of MXNet's
"""


def started(code):
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test runner in the background of a script has it ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_second_ends_a_process_that_is_busy_elsewhere():
    process = started(PROGRAM)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == interrupts.INTERRUPTED and time.monotonic() - began < 20
    assert errors == "\nconfseg: first\n\nconfseg: second\n"


def test_the_first_raises_as_ever_and_nothing_is_left_behind(ctrl_c):
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), interrupts.second_ends("first", "second"):
        ctrl_c()
        time.sleep(5)
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_postponed_until_it_is_asked_for(ctrl_c):
    with interrupts.postponed() as came:
        assert not came()
        ctrl_c()
        time.sleep(0.01)
        assert came()
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()
        time.sleep(5)


def test_others_handlers_and_ignored_signals_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.postponed() as came:
            os.kill(os.getpid(), signal.SIGINT)
            assert not came() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
