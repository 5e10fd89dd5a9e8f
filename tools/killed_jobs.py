"""Runs of several workers (`confseg launch`) of which one process is killed: the job must end as a whole, and go on.

As a program, killed_jobs.py KILL_AT NOTES ARGUMENTS: `confseg ARGUMENTS` as a process of a job, which may end itself at
an instant, and else leaves the number of its instants in the folder NOTES.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

from killed_runs import Runs, watch

PATIENCE = 600.0  # seconds in which a job must be over, on a machine that may be busy with other work
WORKERS = 2  # with more, the sums of gradients are added in any order, and two runs differ in the last bits
OBITUARY = r"confseg: error: (worker \d|an? \w+), process \d+, (was killed by SIGKILL|ended with exit code [1-9]).*"


class Jobs(Runs):
    """Jobs of two workers, a server and a scheduler on this machine.

    With several workers there are no checkpoints within an epoch; the sum of two gradients has but one order, so the
    end is the same to the last bit nevertheless.
    """

    span = 0.9  # of which a good part is the start

    def _prepare(self) -> None:
        root = Path(__file__).resolve().parents[1]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))

    def go_on(self, name: str, *, moment: Optional[float] = None, kill_at: int = 0, by: int = signal.SIGKILL) -> bool:
        """Go on with a run; a process of the job gets `by` `moment` seconds after the start, or SIGKILL at an instant.

        False where that ended the job, True where it ended by itself. Raises RuntimeError where it failed, said nothing
        clear or left processes.
        """
        started = time.monotonic()
        with open(self.folder / f"{name}.txt", "w") as said:
            job = subprocess.Popen(self._command(name, kill_at), stdout=said, stderr=said)
        try:
            victim = self._strike(job, started + moment, by) if moment is not None else ""
            code = job.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name}: the job does not end, {self._roles()} are left") from None
        finally:
            job.terminate()
        text, left = (self.folder / f"{name}.txt").read_text(), self._roles()
        last = (text.strip().splitlines() or [""])[-1]
        if left or "Traceback" in text or (code and not (code == 2 and re.fullmatch(OBITUARY, last))):
            raise RuntimeError(f"{name}: exit code {code}, {victim or 'nobody'} killed, left: {left}:\n{text}")
        self.seconds = time.monotonic() - started
        return code == 0

    def instants(self, name: str) -> int:
        return max(int(path.read_text()) for path in self._notes(name).iterdir())  # worker 0 writes most

    def _notes(self, name: str) -> Path:
        return self.folder / f"{name}.instants"

    def _command(self, name: str, kill_at: int) -> List[str]:
        self._notes(name).mkdir(exist_ok=True)
        own = [sys.executable, str(Path(__file__).resolve()), str(kill_at), str(self._notes(name))]
        start = [sys.executable, "-c", "from gluon_confseg.cli import main; main()"]
        launch = ["launch", "-n", str(WORKERS), "-s", "1"]
        return [*start, *launch, *own, *self.words(name), "--kvstore", "dist_sync"]

    def _strike(self, job: subprocess.Popen, moment: float, by: int) -> str:
        """Kill one process of the job at random, mostly a worker; returns its role, "" if it was too late."""
        time.sleep(max(0.0, moment - time.monotonic()))
        while job.poll() is None:
            roles = self._roles()
            if roles:
                weights = [3 if role == "worker" else 1 for role in roles.values()]
                (victim,) = random.choices([*roles], weights)
                try:
                    os.kill(victim, by)
                except ProcessLookupError:
                    continue
                return roles[victim]
            time.sleep(0.01)
        return ""

    def _roles(self) -> Dict[int, str]:
        """The processes of the job, without the launcher, by id: worker, server or scheduler."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words, variables = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            except OSError:
                continue
            role = re.search(rb"(?:^|\0)DMLC_ROLE=(\w+)", variables)
            if str(self.folder).encode() in words and role:
                found[int(path.name)] = role.group(1).decode()
        return found


def main() -> None:
    kill_at, notes, *words = sys.argv[1:]
    count = watch(int(kill_at))
    sys.argv = ["confseg", *words]
    from gluon_confseg import cli

    try:
        cli.main()
    finally:
        (Path(notes) / str(os.getpid())).write_text(str(count()))


if __name__ == "__main__":
    main()
