"""What the workers of a job share: the same work, and a folder in which all see what the first of them writes."""

import platform
import time
import uuid
from typing import Any, Dict, Sequence

from . import __version__
from .config import to_tree
from .errors import ConfsegError
from .files import sha256
from .run import Run
from .workers import Job

ENVIRONMENT_FILE = "environment.json"
VISIBLE_SECONDS = 60.0  # after which what one machine wrote is visible on all others, or never


def job_record(job: Job) -> Dict[str, Any]:
    """What environment.json says of several workers; the job's name makes the file another one at every start."""
    return {} if job.count == 1 else {"workers": job.count, "job": uuid.uuid4().hex}


def require_same_work(this: Run) -> None:
    """Raise ConfsegError where the workers of a job differ in settings, version or images, or share no folder."""
    if this.job.count == 1:
        return
    work = [__version__, to_tree(this.config), this.train.fingerprint(), this.val.fingerprint()]
    advice = "give all machines the same installation, config and data set"
    this.job.require_same("version, settings or images", work, advice)
    await_files(this, [ENVIRONMENT_FILE])


def await_files(this: Run, names: Sequence[str]) -> None:
    """Wait until all workers see the files of `names`, which the first tells: a network file system may take a while.

    Raises ConfsegError where one does not within VISIBLE_SECONDS.
    """
    if this.job.count == 1:
        return
    digests = this.job.tell({name: sha256(this.folder / name) for name in names} if this.job.first else None)
    deadline = time.monotonic() + VISIBLE_SECONDS
    for name, digest in digests.items():
        path = this.folder / name
        while not (path.exists() and sha256(path) == digest):
            if time.monotonic() > deadline:
                raise ConfsegError(
                    f"{path}, which worker 0 wrote, is not on {platform.node()}: choose an --output in a folder that "
                    "all machines share"
                )
            time.sleep(0.2)
