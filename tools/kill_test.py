"""Kill small runs at random moments, start them again, and compare their ends with a run that was never killed.

    .venv/bin/python tools/kill_test.py --kills 100
    .venv/bin/python tools/kill_test.py --kills 100 --of study
    .venv/bin/python tools/kill_test.py --kills 20 --of job

The moments are drawn over the time of a whole run, or are instants at which files change hands: just before or just
after a temporary file is made, synced or renamed, or a file is removed. SIGKILL goes to the whole process group. With
--interrupts, a third of them are Ctrl-C instead, which must end with exit code 130 and no traceback. A run goes on
until it ends by itself; then parameters must be equal bit for bit, and results.json but for the times. Exit code 1
where they are not.

--of study: `confseg study` with joint trainings, whose norms and tables must be equal too. --of job: `confseg launch`
with two workers, of which one process is killed, a worker, the server or the scheduler; the job must then end with exit
code 2, a last line that says which process ended, and no process left.
"""

import argparse
import collections
import random
import signal
import sys
import tempfile
from pathlib import Path

from killed_jobs import Jobs
from killed_runs import Runs, Studies

KINDS = {"run": Runs, "study": Studies, "job": Jobs}


def test(runs: Runs, kills: int, interrupts: bool, seed: int) -> int:
    """Kill until `kills` were done; returns how many runs ended otherwise than the one that was left alone."""
    random.seed(seed)
    for name in ("whole", "again"):  # the first also draws the built-in images
        runs.go_on(name)
    seconds, instants = runs.seconds, runs.instants("again")
    expected, stages, bad, number = runs.end("whole"), collections.Counter(), 0, 0
    if runs.end("again") != expected:
        raise RuntimeError("two runs that were left alone differ: this machine's arithmetic is not reproducible")
    print(f"a run takes {seconds:.1f} s and has {instants} instants", flush=True)
    while sum(stages.values()) < kills:
        name, ended, number = f"run{number}", False, number + 1
        while not ended:
            moment, kill_at = random.uniform(0, runs.span * seconds), random.randint(1, int(runs.span * instants))
            ways = [{"moment": moment}, {"kill_at": kill_at}]
            options = random.choice([*ways, {"moment": moment, "by": signal.SIGINT}] if interrupts else ways)
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
    parser.add_argument("--of", choices=KINDS, default="run", help="what is killed")
    parser.add_argument("--interrupts", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    if options.interrupts and options.of == "job":
        parser.error(
            "--interrupts: of a job, one process is killed; Ctrl-C goes to the launcher (tests/test_launching.py)"
        )
    with tempfile.TemporaryDirectory() as folder:
        bad = test(KINDS[options.of](Path(folder)), options.kills, options.interrupts, options.seed)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
