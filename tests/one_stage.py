"""A stage whose work is whatever a test wants, where the first stage of a run is."""

import dataclasses

import pytest

from gluon_confseg import chain, config, run
from gluon_confseg.files import write_npz, write_text
from gluon_confseg.places import CONFIGS
from gluon_confseg.stages import stages_of

BASELINE = stages_of(config.load(CONFIGS / "camvid.yaml"))[0]


def begin(opened, work=lambda run: pytest.fail("nothing was to be done"), files=None):
    chain.run_stage(opened, dataclasses.replace(BASELINE, work=work, files=files))


def work(opened, text="made"):
    """Do the stage's work: one file."""
    done = []

    def write(run):
        done.append(checkpoint_of(opened).exists())
        write_text(opened.folder / "baseline.txt", text)
        return ["baseline.txt"]

    begin(opened, write)
    return done


def checkpoint_of(opened):
    return run.checkpoint_path(opened.folder, "baseline")


def interrupt(opened, files=None):
    """Begin the stage, and leave a checkpoint."""

    def stop(run, *parts):
        write_npz(checkpoint_of(opened), {"x": 1})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(opened, stop, files)
    return checkpoint_of(opened)
