"""The real command line with several workers on this machine: as one process, however often and with how many begun."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_end_to_end import TINY, command

from gluon_confseg.backend import mx
from gluon_confseg.files import read_npz

STAGES = "{{epochs: {}, batch_size: 3, warmup: 0, learning_rate: 0.01}}"
SETTINGS = [*TINY, f"baseline={STAGES.format(6)}", f"subnets={STAGES.format(1)}"]
CHECKPOINT = "baseline.checkpoint.npz"


@pytest.fixture(scope="module")
def environment(environment):
    return {**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def job(workers, output):
    run = command("cityscapes", output, "--cpu", *(["--kvstore", "dist_sync"] if workers else []), settings=SETTINGS)
    start = [sys.executable, "-c", "from gluon_confseg.cli import main; main()"]
    return [*start, "launch", "-n", str(workers), "-s", "1", *run] if workers else run


def finish(environment, workers, output):
    """Run to the end with so many workers, or, with 0, as a process without a launcher; standard error."""
    done = subprocess.run(job(workers, output), env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def one(environment, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    finish(environment, 0, folder)
    return folder


def assert_same_networks(left, right):
    names = sorted(path.name for path in left.glob("*.params"))
    assert len(names) > 10 and names == sorted(path.name for path in right.glob("*.params"))
    for name in names:
        expected, found = mx.nd.load(str(left / name)), mx.nd.load(str(right / name))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key].asnumpy(), value.asnumpy(), rtol=1e-3, atol=1e-5)


def processes_of(folder):
    """Ids of the processes that have the folder among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_count_as_one_process(one, environment, tmp_path, workers):
    """The networks of one process, counted again: the same to the last pixel."""
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    for name in ("confusion.npz", "counts.npz", "samples.npz"):
        (folder / name).unlink()
    printed = finish(environment, workers, folder)
    assert "baseline: finished before" in printed and "subnets: finished before" in printed
    for name in ("confusion.npz", "counts.npz", "samples.npz"):
        expected, found = read_npz(one / name), read_npz(folder / name)
        assert expected.keys() == found.keys()
        for key in expected:
            np.testing.assert_array_equal(expected[key], found[key])


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_which_others_continue(one, environment, tmp_path):
    folder = tmp_path / "begun"
    running = subprocess.Popen(job(2, folder), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (folder / CHECKPOINT).exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.01)
    log = folder / "worker1.log"
    victim = int(re.search(r"worker 1 of 2: process (\d+)", log.read_text()).group(1))
    os.kill(victim, signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    last = errors.strip().splitlines()[-1]
    assert f"worker 1, process {victim}, was killed by SIGKILL (its log: {log})" in last
    assert not processes_of(folder)
    assert not (folder / "results.json").exists()
    for workers in (0, 3):
        copy = tmp_path / f"continued{workers}"
        shutil.copytree(folder, copy)
        printed = finish(environment, workers, copy)
        assert "baseline: continuing after epoch" in printed
        assert_same_networks(one, copy)


@pytest.mark.slow
def test_workers_that_share_no_folder_are_told(environment, tmp_path):
    """Worker 1 looks for the run where worker 0 does not write it, as on a machine without the shared folder."""
    script = tmp_path / "run.sh"
    words = command("cityscapes", "$OUT", "--cpu", "--kvstore", "dist_sync", settings=SETTINGS)
    line = " ".join(f'"{word}"' for word in words)
    script.write_text(f"OUT={tmp_path}/own$DMLC_TASK_ID/run\nexec {line}\n")
    start = [sys.executable, "-c", "from gluon_confseg.cli import main; main()", "launch", "-n", "2", "-s", "1"]
    # no machine would take so long as a file system may, so one second stands for it
    patched = "from gluon_confseg import cli, sharing; sharing.VISIBLE_SECONDS = 1; cli.main()"
    script.write_text(script.read_text().replace(words[2], patched))
    done = subprocess.run([*start, "bash", str(script)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "environment.json, which worker 0 wrote, is not on" in done.stderr
    assert "choose an --output in a folder that all machines share" in done.stderr
