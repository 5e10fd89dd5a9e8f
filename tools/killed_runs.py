"""Small runs that are killed at a moment or an instant and started again, and what their ends must have in common."""

import hashlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import yaml

SCHEDULE = "{{epochs: {}, batch_size: 2, warmup: 2, learning_rate: 0.01}}"
SETTINGS = [  # BatchNorm that moves, several epochs; with a checkpoint after each update and each image, see below
    "data.built_in={train: 6, val: 3, size: [64, 96]}",
    "augment.crop=[48, 64]",
    f"baseline={SCHEDULE.format(3)}",
    f"subnets={SCHEDULE.format(2)}",
    "subnet0={channels: 8, norm: batch}",
    "subnet={channels: 8, norm: batch}",
    "groups.source=[[Road, Pavement], [Car, Pedestrian, Bicyclist]]",
]
STUDY = {  # losses that take their weights from a moving matrix, and heads that pull like those of another training
    "losses": {"ce": {"kind": "cross_entropy"}, "new": {"kind": "confusion", "diagonal": "one"}},
    "joint": {
        "groups": {"subnet0": "new", "subnets": "new", "plain_epochs": 1},
        "ordinary": {"subnet0": "ce", "subnets": "ce", "spaces": "all", "pull_like": "groups"},
    },
    "cells": [
        {"key": "base", "title": "baseline", "role": "baseline"},
        {"key": "groups", "title": "joint, groups", "joint": "groups", "rule": "product"},
        {"key": "ordinary", "title": "joint, ordinary heads", "role": "control", "joint": "ordinary"},
    ],
    "comparisons": {"groups": ["ordinary"]},
}
INSTANTS = ((tempfile, "mkstemp"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink"))


class Runs:
    """Runs of the same settings, each in a folder and in processes of its own, which are forked from this one."""

    stages: Tuple[str, ...] = ("baseline", "confusion", "groups", "subnets", "evaluate", "report")
    span = 0.6  # the part of a whole run's time and instants in which it is killed

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds = 0.0  # that the last start took, from where it had its folder
        os.environ.pop("CAMVID_ROOT", None)
        os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), OMP_NUM_THREADS="1", MPLBACKEND="Agg")
        self._prepare()

    def _prepare(self) -> None:
        from gluon_confseg import cli, evaluation, files, pipeline, reporting, training  # noqa: F401

        for name in ("confusion_heatmaps", "class_bars", "overlays"):  # drawing takes longer than all else
            setattr(reporting.figures, name, lambda path, *_, **__: files.write_text(path, "a picture"))
        training.CHECKPOINT_SECONDS = evaluation.SAVE_SECONDS = 0.0
        self._main = cli.main

    def words(self, name: str) -> List[str]:
        """What follows `confseg` on the command line."""
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        return ["run", "camvid", "--cpu", "--output", str(self.folder / name), *options]

    def place(self, name: str) -> Path:
        """The folder of the run that a name stands for."""
        return self.folder / name

    def instants(self, name: str) -> int:
        """How many instants the last start of a run had that ended by itself."""
        return int((self.folder / f"{name}.instants").read_text())

    def _start(self, name: str, kill_at: int) -> int:
        """The id of a process, and process group, that goes on with a run; it ends itself at an instant, if any."""
        process = os.fork()
        if process:
            return process
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
        with open(self.folder / f"{name}.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv = ["confseg", *self.words(name)]
        count, code = watch(kill_at), 1
        try:
            self._main()
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
        (self.folder / f"{name}.instants").write_text(str(count()))
        os._exit(code)

    def go_on(self, name: str, *, moment: Optional[float] = None, kill_at: int = 0, by: int = signal.SIGKILL) -> bool:
        """Go on with a run; signal `by` comes `moment` seconds after it took its folder, or SIGKILL at an instant.

        False where that ended it, True where it ended by itself. Raises RuntimeError where it failed.
        """
        log = self.place(name) / "run.log"
        before = log.stat().st_size if log.exists() else 0
        process, began = self._start(name, kill_at), None
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if began is None and log.exists() and log.stat().st_size > before:
                began = time.monotonic()
            if moment is not None and began is not None and time.monotonic() >= began + moment:
                os.killpg(process, by)
                moment = None
            time.sleep(0.005)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return False
        said = (self.folder / f"{name}.txt").read_text()
        if os.WEXITSTATUS(status) == 130 and by == signal.SIGINT and "Traceback" not in said:
            return False
        if status or "Traceback" in said:
            raise RuntimeError(f"{name} failed:\n{said}")
        self.seconds = time.monotonic() - (began or time.monotonic())
        return True

    def stage(self, name: str) -> str:
        """The stage that a run was in."""
        done = [stage for stage in self.stages if (self.place(name) / "stages" / f"{stage}.json").exists()]
        return self.stages[len(done)] if len(done) < len(self.stages) else "the end"

    def end(self, name: str) -> Dict[str, object]:
        """What has to be equal: digests of parameters and norms, and the results without the times."""
        folder = self.place(name)
        paths = sorted([*folder.glob("*.params"), *folder.glob("*.pulls.json")])
        found: Dict[str, object] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        results = json.loads((folder / "results.json").read_text())
        del results["seconds"]
        return {**found, "results.json": results}

    def left_over(self, name: str) -> List[str]:
        """Files that an ended run must not leave."""
        patterns = (".unfinished-*", "previous-*", "*.partial.npz", "*.begun.json")
        return [path.name for pattern in patterns for path in (self.folder / name).rglob(pattern)]


class Studies(Runs):
    """Studies with joint trainings, of one seed: a moving confusion matrix, and gradients of wanted norms."""

    stages = (*Runs.stages[:4], "joint-groups", "joint-ordinary", *Runs.stages[4:])

    def words(self, name: str) -> List[str]:
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(STUDY))
        return ["study", "camvid", "--study", str(file), "--seeds", "0", *super().words(name)[2:]]

    def place(self, name: str) -> Path:
        return self.folder / name / "seed0"

    def end(self, name: str) -> Dict[str, object]:
        return {**super().end(name), "study.md": (self.folder / name / "study.md").read_text()}


def watch(kill_at: int) -> Callable[[], int]:
    """Count the instants at which files change hands from now on; at number `kill_at`, kill the process group."""
    instants = 0

    def instant() -> None:
        nonlocal instants
        instants += 1
        if instants == kill_at:
            os.killpg(0, signal.SIGKILL)

    def watched(function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            instant()
            result = function(*arguments, **options)
            instant()
            return result

        return call

    for module, name in INSTANTS:
        setattr(module, name, watched(getattr(module, name)))
    return lambda: instants
