"""The chain of stages: makes what of a stage is missing or changed, and keeps what is finished."""

import time
from typing import List, Tuple

from . import checkpoint
from .ledger import open_ledger
from .run import Run, checkpoint_path
from .sharing import await_files
from .stages import Stage


def run_stage(this: Run, stage: Stage) -> None:
    """Make, pass by pass, what is lacking; worker 0 keeps the stage's ledger, and tells the others what to make."""
    if not this.job.first:
        for parts in this.job.tell(None):
            this.job.barrier()
            _make(this, stage, parts)
            await_files(this, [])
        return
    ledger = open_ledger(this, stage)
    passes = ledger.plan()
    this.job.tell(passes or [])
    if passes is None:
        ledger.skip()
        return
    for parts in passes:
        ledger.begin(parts)
        this.job.barrier()  # now the checkpoints that there are belong to these parts
        outputs, seconds = _make(this, stage, parts)
        ledger.record(parts, outputs, seconds)
        await_files(this, outputs)
    ledger.close()


def _make(this: Run, stage: Stage, parts: List[str]) -> Tuple[List[str], float]:
    """Do the stage's work on some of its parts; returns their files, and the seconds, earlier sessions' included."""
    started = time.monotonic()
    earlier = checkpoint.newest_meta(checkpoint_path(this.folder, stage.name)).get("seconds", 0.0)
    outputs = stage.make(this, parts) if this.job.first or stage.shared else []
    return outputs, earlier + time.monotonic() - started
