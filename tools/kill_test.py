"""Kill small runs at random moments, start them again, and compare their ends with a run that was never killed.

    .venv/bin/python tools/kill_test.py --kills 100

The moments are drawn over the time of a whole run, or are instants at which files change hands: just before or just
after a temporary file is made, synced or renamed, or a file is removed. SIGKILL goes to the whole process group. With
--interrupts, a third of them are Ctrl-C instead, which must end with exit code 130 and no traceback. A run goes on
until it ends by itself; then parameters must be equal bit for bit, and results.json but for the times. Exit code 1
where they are not.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

SETTINGS = [  # BatchNorm that moves, several epochs; with a checkpoint after each update and each image, see below
    "data.built_in={train: 6, val: 3, size: [64, 96]}",
    "augment.crop=[48, 64]",
    "baseline={epochs: 3, batch_size: 2, warmup: 2, learning_rate: 0.01}",
    "subnets={epochs: 2, batch_size: 2, warmup: 2}",
    "subnet0={channels: 8, norm: batch}",
    "subnet={channels: 8, norm: batch}",
    "groups.source=[[Road, Pavement], [Car, Pedestrian, Bicyclist]]",
]
STAGES = ("baseline", "confusion", "groups", "subnets", "evaluate", "report")
INSTANTS = ((tempfile, "mkstemp"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink"))


class Runs:
    """Runs of the same settings, each in a folder and in processes of its own, which are forked from this one."""

    def __init__(self, folder: Path):
        self.folder = folder
        os.environ.pop("CAMVID_ROOT", None)
        os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), OMP_NUM_THREADS="1", MPLBACKEND="Agg")
        from gluon_confseg import cli, evaluation, files, pipeline, reporting, training  # noqa: F401

        for name in ("confusion_heatmaps", "class_bars", "overlays"):  # drawing takes longer than all else
            setattr(reporting.figures, name, lambda path, *_, **__: files.write_text(path, "a picture"))
        training.CHECKPOINT_SECONDS = evaluation.SAVE_SECONDS = 0.0
        self._main = cli.main

    def start(self, name: str, kill_at: int = 0) -> int:
        """The id of a process, and process group, that goes on with a run; it ends itself at an instant, if any."""
        process = os.fork()
        if process:
            return process
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
        with open(self.folder / f"{name}.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        sys.argv = ["confseg", "run", "camvid", "--cpu", "--output", str(self.folder / name), *options]
        count, code = _watch(kill_at), 1
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
        log = self.folder / name / "run.log"
        before = log.stat().st_size if log.exists() else 0
        process, deadline = self.start(name, kill_at), None
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if deadline is None and log.exists() and log.stat().st_size > before:
                deadline = time.monotonic() + (moment or 0)
            if moment is not None and deadline is not None and time.monotonic() >= deadline:
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
        return True

    def stage(self, name: str) -> str:
        """The stage that a run was in."""
        done = [stage for stage in STAGES if (self.folder / name / "stages" / f"{stage}.json").exists()]
        return STAGES[len(done)] if len(done) < len(STAGES) else "the end"

    def end(self, name: str) -> Dict[str, object]:
        """What has to be equal: digests of the parameters, and the results without the times."""
        folder = self.folder / name
        found: Dict[str, object] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.params"))
        }
        results = json.loads((folder / "results.json").read_text())
        del results["seconds"]
        return {**found, "results.json": results}

    def left_over(self, name: str) -> List[str]:
        """Files that an ended run must not leave."""
        patterns = (".unfinished-*", "previous-*", "*.partial.npz", "*.begun.json")
        return [path.name for pattern in patterns for path in (self.folder / name).rglob(pattern)]


def _watch(kill_at: int) -> Callable[[], int]:
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


def test(kills: int, interrupts: bool, seed: int, folder: Path) -> int:
    """Kill until `kills` were done; returns how many runs ended otherwise than the one that was left alone."""
    rng, runs = random.Random(seed), Runs(folder)
    runs.go_on("whole")  # also draws the built-in images
    began = time.monotonic()
    runs.go_on("again")
    seconds, instants = time.monotonic() - began, int((folder / "again.instants").read_text())
    expected, stages, bad, number = runs.end("whole"), collections.Counter(), 0, 0
    if runs.end("again") != expected:
        raise RuntimeError("two runs that were left alone differ: this machine's arithmetic is not reproducible")
    print(f"a run takes {seconds:.1f} s and has {instants} instants", flush=True)
    while sum(stages.values()) < kills:
        name, ended, number = f"run{number}", False, number + 1
        while not ended:
            moment, kill_at = rng.uniform(0, 0.6 * seconds), rng.randint(1, int(0.6 * instants))
            ways = [{"moment": moment}, {"kill_at": kill_at}]
            options = rng.choice([*ways, {"moment": moment, "by": signal.SIGINT}] if interrupts else ways)
            ended = runs.go_on(name, **(options if sum(stages.values()) < kills else {}))
            if not ended:
                stages[runs.stage(name)] += 1
        found = runs.end(name)
        differing = [key for key in expected if found.get(key) != expected[key]] + runs.left_over(name)
        bad += bool(differing)
        print(f"{name}: {', '.join(differing) or 'equal'}; {sum(stages.values())} kills so far", flush=True)
    print(f"{sum(stages.values())} kills ({', '.join(f'{stage} {n}' for stage, n in stages.most_common())})")
    print(f"{number} runs ended, {bad} of them otherwise than the run that was left alone")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--interrupts", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(1 if test(options.kills, options.interrupts, options.seed, Path(folder)) else 0)


if __name__ == "__main__":
    main()
