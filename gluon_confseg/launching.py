"""`confseg launch`: MXNet's own launcher, watched, so that a job ends as a whole. Needs no MXNet while it does so.

MXNet's launcher (mxnet/tools/launch.py over dmlc_tracker) starts a scheduler, servers and workers, which are all the
same command in different roles. By itself it calls `Thread.isAlive`, gone since Python 3.9, and goes on waiting, with
its processes, when one of them fails. Here it runs in a thread, with the old name in place; every process that it
starts is noted, and all are ended by their process ids once one has failed, the job has been interrupted, or is over.
"""

import contextlib
import importlib.util
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, List, Optional, Sequence

from .cuda import CPU_INSTALL
from .errors import ConfsegError

LAUNCHERS = ("local", "ssh", "mpi")
BROKEN = {
    "sge": "it reads settings that its own options do not have",
    "yarn": "the wheel lacks its Java part",
}
FOLDER_VARIABLE = "CONFSEG_JOB"  # where workers of this machine say who they are
USERS_MISTAKE = 2  # confseg's exit code for one
_TICK = 0.2  # seconds between two looks at the processes
_GRACE = 5.0  # seconds for a process to end, first by itself, then after SIGTERM
_LOOK = 5.0  # seconds between two looks for the scheduler
_LOOKS = 3  # looks in vain that mean that it is gone


class _Process(subprocess.Popen):
    """A process that MXNet's launcher starts: noted, and at the head of a group of its own, which can be ended."""

    noted: List["_Process"] = []

    def __init__(self, arguments: Any, *more: Any, **options: Any):
        super().__init__(arguments, *more, start_new_session=True, **options)
        self.text = arguments if isinstance(arguments, str) else " ".join(map(str, arguments))
        environment = options.get("env") or {}
        said = re.search(r"DMLC_ROLE=(\w+)", self.text)
        self.role = environment.get("DMLC_ROLE") or (said.group(1) if said else "launching")
        self.noted.append(self)

    def end(self, how: int) -> None:
        """Send a signal to the process and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, how)


def launch(
    command: Sequence[str], *, workers: int, servers: int, launcher: str = "local", hostfile: Optional[str] = None
) -> None:
    """Start `command` as `workers` workers, `servers` servers and a scheduler; returns when the job is over.

    To be called once, in a process that does nothing else: it changes what MXNet's launcher finds there.

    launcher : one of MXNet's: "local" (all on this machine, over its loopback interface), "ssh", "mpi"
    hostfile : a machine per line, for ssh and mpi

    Raises ConfsegError where a process failed, naming the worker and its log; no process of the job is left then.
    """
    _check(command, launcher, hostfile)
    words = [_quoted(word) for word in _found(command)]
    options = ["-n", workers, "-s", servers, "--launcher", launcher, *(["-H", hostfile] if hostfile else [])]
    # in two words, which neither MXNet's parser nor the tracker's takes for options of its own
    arguments = [*map(str, options), words[0], *([" ".join(words[1:])] if words[1:] else [])]
    _mend(launcher, workers)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    failures: List[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="confseg-job-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        thread = threading.Thread(target=_run_launcher, args=(arguments, failures), daemon=True)
        thread.start()
        try:
            _watch(thread, failures, Path(folder))
        except ConfsegError:
            _end_all()
            print(file=sys.stderr)  # a worker that was ended leaves its progress bar on the last line
            raise
        finally:
            _end_all()


def _check(command: Sequence[str], launcher: str, hostfile: Optional[str]) -> None:
    if launcher in BROKEN:
        raise ConfsegError(
            f"--launcher {launcher}: MXNet 1.9.1's does not work ({BROKEN[launcher]}); start the processes yourself, "
            "as docs/distributed.md says"
        )
    if launcher not in LAUNCHERS:
        raise ConfsegError(f"--launcher {launcher}: choose one of {', '.join(LAUNCHERS)}")
    if (launcher == "local") == (hostfile is not None):
        raise ConfsegError(f"--launcher {launcher}: {'takes no' if hostfile else 'wants a'} --hostfile")
    if hostfile is not None and not Path(hostfile).is_file():
        raise ConfsegError(f"--hostfile {hostfile}: there is no such file; write a machine a line")
    if not _launcher_file().is_file():
        raise ConfsegError(f"MXNet's launcher is not installed ({_launcher_file()}): {CPU_INSTALL}")
    if launcher == "local" and shutil.which(_found(command)[0]) is None:
        raise ConfsegError(f"there is no program {command[0]!r} to launch")


def _launcher_file() -> Path:
    found = importlib.util.find_spec("mxnet")
    return Path(found.origin if found and found.origin else "mxnet/__init__.py").with_name("tools") / "launch.py"


def _found(command: Sequence[str]) -> List[str]:
    """The command, with `confseg` as the program of this installation."""
    own = Path(sys.executable).with_name("confseg")
    return [str(own) if command[0] == "confseg" and own.is_file() else command[0], *command[1:]]


def _quoted(word: str) -> str:
    """A word for a shell, also inside the single quotes that MXNet's ssh launcher puts around the whole."""
    if not word or re.search(r"['\n]", word):
        raise ConfsegError(f"{word!r}: MXNet's launcher passes on no empty words, single quotes and line breaks")
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word, flags=re.ASCII)


def _mend(launcher: str, workers: int) -> None:
    """What MXNet's launcher needs in this process, and what its processes are to find in their environment."""
    threading.Thread.isAlive = threading.Thread.is_alive
    threading.excepthook = lambda failure: None  # the exit code of a process says it better
    subprocess.Popen = _Process
    if launcher == "local":
        importlib.import_module("dmlc_tracker.tracker").get_host_ip = lambda *_: "127.0.0.1"
        os.environ["DMLC_NODE_HOST"] = "127.0.0.1"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))


def _run_launcher(arguments: List[str], failures: List[BaseException]) -> None:
    """MXNet's main(); it returns once the scheduler has ended."""
    sys.argv = ["launch.py", *arguments]
    try:
        runpy.run_path(str(_launcher_file()))["main"]()
    except BaseException as error:  # argparse raises SystemExit
        failures.append(error)


def _watch(thread: threading.Thread, failures: List[BaseException], folder: Path) -> None:
    """Return when all processes have ended well; ConfsegError once one has not."""
    over: Optional[float] = None
    while True:
        running = thread.is_alive()
        processes = list(_Process.noted)
        failed = [process for process in processes if process.poll()]
        if failed:
            for process in failed:
                process.end(signal.SIGTERM)  # what it started, if it was a shell
            raise ConfsegError(_obituary(failed[0], folder))
        if failures:
            raise ConfsegError(f"MXNet's launcher failed: {failures[0]}")
        if not running:
            over = over or time.monotonic()
            if all(process.poll() == 0 for process in processes) or time.monotonic() > over + 6 * _GRACE:
                return
        time.sleep(_TICK)


def _obituary(process: _Process, folder: Path) -> str:
    """What ended and how, where its log is, as far as it said so (see `announce`), and what to do."""
    note = folder / str(process.pid)
    name, log = note.read_text(encoding="utf-8").split("\n") if note.is_file() else (f"a {process.role}", "")
    host = re.search(r"DMLC_NODE_HOST=(\S+?);", process.text)
    where = f" on {host.group(1)}" if host else ""
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    its_log = f" (its log: {log})" if log else ""
    advice = (
        "mend what is said above" if code == USERS_MISTAKE else "the same command continues, also with more workers"
    )
    return f"{name}{where}, process {process.pid}, {how}{its_log}, so all of the job were ended; {advice}"


def _end_all() -> None:
    """End what is still running, politely at first."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in _Process.noted:
            if process.poll() is None:
                process.end(how)
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and any(process.poll() is None for process in _Process.noted):
            time.sleep(_TICK / 4)


def announce(name: str, log: Path) -> None:
    """In a worker: tell the launcher, if it is on this machine, who this process is and where its log is."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and Path(folder).is_dir():
        (Path(folder) / str(os.getpid())).write_text(f"{name}\n{log}", encoding="utf-8")


def end_with_the_job() -> None:
    """In a process of a job: end it once the job is gone, even where nobody can: a machine was lost, a launcher killed.

    The scheduler lives as long as the launcher, whose child it is; servers and workers, on whatever machine, as long as
    they find the scheduler.
    """
    role = os.environ.get("DMLC_ROLE")
    if role:
        watch = _watch_parent if role == "scheduler" else _watch_scheduler
        threading.Thread(target=watch, name="confseg-job", daemon=True).start()


def _watch_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_TICK)
    os._exit(1)


def _watch_scheduler() -> None:
    address = (os.environ.get("DMLC_PS_ROOT_URI", ""), int(os.environ.get("DMLC_PS_ROOT_PORT") or 0))
    seen, missed = False, 0
    while missed < _LOOKS:
        try:
            socket.create_connection(address, _LOOK).close()
            seen, missed = True, 0
        except OSError:
            missed += seen  # before the first time it may be that it has not started
        time.sleep(_LOOK)
    print(f"confseg: error: the job's scheduler ({address[0]}) is gone, so this process ends", file=sys.stderr)
    os._exit(1)
