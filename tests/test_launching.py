"""`confseg launch`: what it starts gets its words whole and ends as a whole. No process here imports MXNet."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Plays all the roles: notes who it is, then does what its role is told to do.
ACTOR = """
import json, os, socket, sys, time
from pathlib import Path
from gluon_confseg import launching

folder, role = Path(sys.argv[1]), os.environ["DMLC_ROLE"]
if role == "worker":
    launching.announce("worker 7", folder / "worker7.log")
if "watch" in sys.argv:
    launching._LOOK = 0.1
    launching.end_with_the_job()
if role == "scheduler":
    listening = socket.create_server(("127.0.0.1", int(os.environ["DMLC_PS_ROOT_PORT"])))
note = {"role": role, "words": sys.argv[2:], "variables": {k: v for k, v in os.environ.items() if "DMLC" in k}}
(folder / "writing").mkdir(exist_ok=True)
temporary = folder / "writing" / str(os.getpid())
temporary.write_text(json.dumps(note))
temporary.rename(folder / f"{os.getpid()}.note")
if "stay" in sys.argv:
    print("33%|###", end="", file=sys.stderr, flush=True)  # as a progress bar stands there
    while not (role == "worker" and (folder / "fail").exists()):
        time.sleep(0.05)
    sys.exit(3)
"""
WORDS = ["a b", "x=[1, 2]", "$HOME", "*", '"', "k={a: 1}", "back\\slash", "--num-workers", "-n", "a;b|c&d", "grün"]


@pytest.fixture
def actor(tmp_path):
    (tmp_path / "actor.py").write_text(ACTOR)
    (tmp_path / "notes").mkdir()
    return [sys.executable, str(tmp_path / "actor.py"), str(tmp_path / "notes")]


def start(*arguments, path=None):
    command = [sys.executable, "-c", "from gluon_confseg.cli import main; main()", "launch", *map(str, arguments)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": root,
        "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"],
    }
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def end(process):
    """(exit code, last line of standard error)"""
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    return process.returncode, (errors.strip().splitlines() or [""])[-1]


def notes(folder, count):
    import json

    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.note"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.note")}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a process of the job is left"
        time.sleep(0.05)


def test_every_process_gets_its_role_and_the_words_as_they_are(actor, tmp_path):
    code, line = end(start("-n", 2, "-s", 1, *actor, *WORDS))
    assert code == 0, line
    found = notes(tmp_path / "notes", 4).values()
    assert sorted(note["role"] for note in found) == ["scheduler", "server", "worker", "worker"]
    assert all(note["words"] == WORDS for note in found)
    for note in found:  # nothing listens to other machines
        assert note["variables"]["DMLC_PS_ROOT_URI"] == note["variables"]["DMLC_NODE_HOST"] == "127.0.0.1"


@pytest.mark.parametrize("death", ["exit", "kill"])
def test_a_worker_that_fails_ends_the_job(actor, tmp_path, death):
    job = start("-n", 2, "-s", 1, *actor, "stay")
    found = notes(tmp_path / "notes", 4)
    if death == "kill":
        victim = next(pid for pid, note in found.items() if note["role"] == "worker")
        os.kill(victim, signal.SIGKILL)
    else:
        (tmp_path / "notes" / "fail").touch()
    code, line = end(job)
    how = "was killed by SIGKILL" if death == "kill" else "ended with exit code 3"
    assert code == 2
    assert line.startswith("confseg: error: worker 7, process ") and how in line
    assert f"(its log: {tmp_path / 'notes' / 'worker7.log'})" in line and "the same command continues" in line
    wait_until_gone(found)


@pytest.mark.parametrize("role", ["scheduler", "server"])
def test_so_does_a_scheduler_or_server(actor, tmp_path, role):
    job = start("-n", 1, "-s", 1, *actor, "stay")
    found = notes(tmp_path / "notes", 3)
    os.kill(next(pid for pid, note in found.items() if note["role"] == role), signal.SIGKILL)
    code, line = end(job)
    assert code == 2 and f"a {role}, process" in line
    wait_until_gone(found)


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_launcher_leaves_nothing(actor, tmp_path, number, expected):
    job = start("-n", 2, "-s", 1, *actor, "stay")
    found = notes(tmp_path / "notes", 4)
    job.send_signal(number)
    assert end(job)[0] == expected
    wait_until_gone(found)


def test_processes_outlive_no_launcher_that_was_killed(actor, tmp_path):
    job = start("-n", 2, "-s", 1, *actor, "stay", "watch")
    found = notes(tmp_path / "notes", 4)
    time.sleep(1)  # they look for the scheduler every tenth of a second
    assert all(map(alive, found))
    job.kill()
    wait_until_gone(found)
    job.communicate()


SSH = """#!/bin/bash
# ssh -o OPTION NODE -p PORT COMMAND, here
cd / && env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" bash -c "${@: -1}"
"""
MPIRUN = """#!/bin/bash
# mpirun -n N -x NAME=VALUE... --hostfile FILE COMMAND, here
[ "$1" = --version ] && { echo "mpirun (Open MPI) 4.1.4"; exit; }
count=$2; shift 2
while [ "$1" = -x ]; do export "$2"; shift 2; done
shift 2
for _ in $(seq "$count"); do "$@" & done
wait
"""


@pytest.mark.parametrize("launcher, stub", [("ssh", SSH), ("mpi", MPIRUN)])
def test_the_words_survive_ssh_and_mpirun(actor, tmp_path, launcher, stub):
    program = tmp_path / "bin" / {"ssh": "ssh", "mpi": "mpirun"}[launcher]
    program.parent.mkdir()
    program.write_text(stub)
    program.chmod(0o755)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1\n")
    options = ("-n", 2, "-s", 1, "--launcher", launcher, "-H", hosts)
    code, line = end(start(*options, *actor, *WORDS, path=program.parent))
    assert code == 0, line
    found = notes(tmp_path / "notes", 4).values()
    assert sorted(note["role"] for note in found) == ["scheduler", "server", "worker", "worker"]
    assert all(note["words"] == WORDS for note in found)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--launcher", "sge", "true"), "--launcher sge: MXNet 1.9.1's does not work"),
        (("--launcher", "yarn", "true"), "--launcher yarn: MXNet 1.9.1's does not work"),
        (("--launcher", "slurm", "true"), "--launcher slurm: choose one of local, ssh, mpi"),
        (("--launcher", "ssh", "true"), "--launcher ssh: wants a --hostfile"),
        (("-H", "none", "true"), "--launcher local: takes no --hostfile"),
        (("--launcher", "mpi", "-H", "none", "true"), "--hostfile none: there is no such file"),
        (("no-such-program",), "there is no program 'no-such-program' to launch"),
        (("true", "it's"), "no empty words, single quotes and line breaks"),
        (("confseg", "nope"), "Error: No such command 'nope'"),
        (("confseg", "run", "--seed", "x", "camvid"), "Error: Invalid value for '--seed'"),
        (("confseg", "--plugin", "mine.py"), "Error: Missing command"),
    ],
)
def test_what_cannot_be_launched_gets_one_line(arguments, message):
    code, line = end(start("-n", 2, *arguments))
    assert code == 2 and message in line
