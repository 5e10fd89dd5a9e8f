"""The real command line on generated data: the whole chain for each data set, resuming, refusing."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gluon_confseg import results
from gluon_confseg.errors import ConfsegError

TINY = [
    "data.built_in={train: 6, val: 2, size: [64, 96]}",
    "augment.crop=[48, 64]",
    "baseline={epochs: 1, batch_size: 2, max_updates_per_epoch: 2, warmup: 0, learning_rate: 0.01}",
    "subnets={epochs: 1, batch_size: 2, max_updates_per_epoch: 2, warmup: 0}",
    "subnet0.channels=8",
    "subnet.channels=8",
    "encoder.frozen_batchnorm=true",
    "groups.threshold=0.0001",
]
FIGURES = ("confusion.png", "classes.png", "overlays.png")


def command(name, output, *options, settings=TINY):
    overrides = [part for setting in settings for part in ("--set", setting)]
    start = [sys.executable, "-c", "from gluon_confseg.cli import main; main()"]
    return [*start, "run", name, "--output", str(output), *overrides, *options]


def confseg(environment, *arguments, **options):
    return subprocess.run(command(*arguments, **options), env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(environment, tmp_path_factory):
    """A finished run by (data set, devices); made once."""
    made = {}

    def get(name, devices):
        if (name, devices) not in made:
            folder = tmp_path_factory.mktemp(f"{name}{devices}") / "run"
            listed = ", ".join(f"cpu:{i}" for i in range(devices))
            made[name, devices] = folder, confseg(environment, name, folder, "--set", f"devices=[{listed}]")
        return made[name, devices]

    return get


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name, classes", [("cityscapes", 19), ("voc", 21), ("camvid", 11)])
def test_the_whole_chain(runs, name, classes, devices):
    folder, done = runs(name, devices)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("built-in data:") == 2 and "built-in data:" in done.stderr.strip().splitlines()[-1]
    assert "subnet 0, CE (baseline)" in done.stdout and str(folder) in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    found = results.read(folder / "results.json")
    assert len(found.classes) == classes and found.dataset.source == "built-in"
    assert [cell.key for cell in found.cells][:4] == ["subnet0_ce", "subnets_ce", "subnet0_new", "subnets_new"]
    assert {np.sum(cell.confusion) for cell in found.cells} == {np.sum(found.cells[0].confusion)}
    assert set(found.seconds) == {"baseline", "confusion", "groups", "subnets", "evaluate"}
    assert (found.paper_table is None) == (name == "camvid")
    for figure in FIGURES:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.txt").read_text().strip() in done.stdout


@pytest.mark.parametrize("name", ["cityscapes", "voc", "camvid"])
def test_one_and_two_devices_give_the_same_numbers(runs, name):
    one, two = (results.read(runs(name, devices)[0] / "results.json") for devices in (1, 2))
    assert one.groups == two.groups
    for left, right in zip(one.cells, two.cells):
        total = np.sum(left.confusion)
        differing = np.abs(np.subtract(left.confusion, right.confusion)).sum() / 2
        assert differing <= 0.002 * total, left.key  # a pixel on the border of two classes may fall to either side


def test_run_again_skips_what_is_finished(runs, environment):
    folder, _ = runs("camvid", 1)
    before = (folder / "results.json").read_bytes()
    again = confseg(environment, "camvid", folder, "--set", "devices=[cpu:0]")
    assert again.returncode == 0
    assert again.stderr.count("finished before") == 6
    assert (folder / "results.json").read_bytes() == before
    noted = json.loads((folder / "environment.json").read_text())
    assert noted["threads"] >= 1 and noted["devices"] == ["cpu(0)"] and "model" in noted["cpu"]


def test_files_of_decoded_images_change_no_result(runs, environment, tmp_path):
    without, _ = runs("camvid", 1)
    assert "disk_cache_megabytes" not in (without / "config.json").read_text()  # nor in runs older than the setting
    cached = ("data.cache_megabytes=0", "data.disk_cache_megabytes=8")
    env = {**environment, "XDG_CACHE_HOME": str(tmp_path)}
    done = confseg(env, "camvid", tmp_path / "run", "--set", "devices=[cpu:0]", settings=[*TINY, *cached])
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "gluon_confseg" / "decoded").iterdir())) == 6
    for file in sorted(without.glob("*.params")):
        assert file.read_bytes() == (tmp_path / "run" / file.name).read_bytes(), file.name


def test_other_settings_in_the_same_folder_are_refused(runs, environment):
    folder, _ = runs("camvid", 2)
    before = (folder / "config.json").read_bytes()
    refused = confseg(environment, "camvid", folder, "--seed", "5")
    assert refused.returncode == 2
    assert (folder / "config.json").read_bytes() == before  # still that of the networks in the folder
    assert "seed: 0 -> 5" in refused.stderr and "--restart" in refused.stderr


def test_restart_redoes_what_changed_and_what_follows(environment, tmp_path):
    folder = tmp_path / "run"
    assert confseg(environment, "camvid", folder).returncode == 0
    named = "groups.source=[[Road, Pavement], [Car, Bicyclist, Pedestrian]]"
    redone = confseg(environment, "camvid", folder, "--restart", "--set", named)
    assert redone.returncode == 0, redone.stderr
    assert "baseline: finished before" in redone.stderr and "confusion: finished before" in redone.stderr
    assert "groups: done again" in redone.stderr and "subnets: done again" in redone.stderr
    found = results.read(folder / "results.json")
    assert [group.classes for group in found.groups] == [["Road", "Pavement"], ["Car", "Pedestrian", "Bicyclist"]]


def test_a_network_that_is_already_trained_is_taken_as_it_is(runs, environment, tmp_path):
    """As the paper does with the released ResNet-38: no epochs in the first stage, its head is subnet 0."""
    trained, _ = runs("camvid", 1)
    weights = (f"encoder.weights={trained}/encoder.params", f"subnet0.weights={trained}/subnet0.baseline.params")
    done = confseg(environment, "camvid", tmp_path, settings=[*TINY, "baseline.epochs=0", *weights])
    assert done.returncode == 0, done.stderr
    left, right = (results.read(folder / "results.json") for folder in (trained, tmp_path))
    assert left.baseline.confusion == right.baseline.confusion and left.groups == right.groups


def test_interrupted_and_killed_runs_continue_to_the_same_result(environment, runs, tmp_path):
    """Ctrl-C in the first stage, then SIGKILL in a later one: the end is that of the run that was left alone."""
    longer = [*TINY, "baseline={epochs: 4, batch_size: 2, max_updates_per_epoch: 2, warmup: 0, learning_rate: 0.01}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert confseg(environment, "camvid", whole, settings=longer).returncode == 0
    for marker, kill, code in (("baseline epoch 2", signal.SIGINT, 130), ("subnets epoch 1", signal.SIGKILL, -9)):
        process = subprocess.Popen(
            command("camvid", parts, settings=longer),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a test runner in the background of a script has it ignored, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        log = parts / "run.log"
        deadline = time.monotonic() + 120
        while not (log.exists() and marker in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(kill)
        _, errors = process.communicate()
        assert process.returncode == code, errors
        assert b"Traceback" not in errors
        if kill == signal.SIGINT:  # the last line is the command, for a shell
            assert shlex.split(errors.decode().splitlines()[-1]) == ["confseg", *process.args[3:]]
        stage = marker.split()[0]
        refused = confseg(environment, "camvid", parts, "--set", f"{stage}.learning_rate=0.5", settings=longer)
        # an epoch may have been the stage's last by the time the signal came
        assert refused.returncode == 2 and re.search(f"stage {stage} was (begun|finished) with", refused.stderr)
    assert confseg(environment, "camvid", parts, settings=longer).returncode == 0
    left, right = (json.loads((folder / "results.json").read_text()) for folder in (whole, parts))
    for record in (left, right):
        record.pop("seconds")
    assert left == right
    for file in sorted(whole.glob("*.params")):
        assert file.read_bytes() == (parts / file.name).read_bytes(), file.name


def test_a_stage_that_was_begun_with_other_settings_is_begun_again(environment, tmp_path):
    """--restart does not continue the checkpoint of other settings."""
    folder = tmp_path / "run"
    assert confseg(environment, "camvid", folder).returncode == 0
    made_from = json.loads((folder / "stages" / "baseline.json").read_text())["made_from"]
    (folder / "stages" / "baseline.json").rename(folder / "stages" / "baseline.begun.json")
    assert (folder / "baseline.checkpoint.npz").exists() and made_from["seed"] == 0
    again = confseg(environment, "camvid", folder, "--restart", "--seed", "1")
    assert again.returncode == 0, again.stderr
    assert "baseline: begun again, because of" in again.stderr and "seed: 0 -> 1" in again.stderr
    assert "baseline: continuing" not in again.stderr
    assert not list((folder / "stages").glob("*.begun.json"))


def test_two_runs_in_one_folder_are_refused(environment, tmp_path):
    import fcntl

    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused = confseg(environment, "camvid", folder)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("wait for it, or choose another --output")


@pytest.mark.slow
def test_something_is_learned(environment, tmp_path):
    """The built-in street scenes as they come: over 35 % mean IoU on 19 classes."""
    done = confseg(environment, "cityscapes", tmp_path / "run", settings=())
    assert done.returncode == 0, done.stderr
    found = results.read(tmp_path / "run" / "results.json")
    assert found.baseline.miou > 0.35


def test_a_finished_run_can_be_opened_without_its_data(runs):
    from gluon_confseg import labels
    from gluon_confseg.backend import mx
    from gluon_confseg.run import open_run, read_groups

    folder, _ = runs("cityscapes", 1)
    opened = open_run(folder, [mx.cpu()])
    assert opened.labels.classes == labels.CITYSCAPES.classes and opened.labels.colors == labels.CITYSCAPES.colors
    assert dict(opened.labels.raw_ids) == dict(labels.CITYSCAPES.raw_ids)
    assert len(read_groups(opened)) == 3
    with pytest.raises(ConfsegError, match="not a finished run"):
        open_run(folder / "stages", [mx.cpu()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--kills", "30", "--interrupts"),
        ("--of", "study", "--kills", "20", "--interrupts"),
        ("--of", "job", "--kills", "6"),
    ],
    ids=["run", "study", "job"],
)
def test_killed_and_interrupted_at_random_moments(options):
    tool = Path(__file__).resolve().parents[1] / "tools" / "kill_test.py"
    command = [sys.executable, str(tool), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0 and ", 0 of them otherwise" in done.stdout, done.stdout
