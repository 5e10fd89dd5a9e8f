"""What a run's folder says of a stage: kept up to date so that a kill between any two lines loses and mixes nothing."""

import pytest
from one_stage import begin, checkpoint_of, interrupt, work

from gluon_confseg import changes, ledger, reporting
from gluon_confseg.files import write_npz, write_text


def test_a_lost_output_is_made_again_from_the_checkpoint(opened, caplog):
    interrupt(opened())
    assert work(opened()) == [True]
    (opened().folder / "baseline.txt").unlink()
    changes.refuse_changed(opened())
    assert work(opened()) == [True]
    assert "done again, because of missing baseline.txt" in caplog.text


def test_what_a_checkpoint_gives_back_is_still_what_was_accepted(opened):
    interrupt(opened())
    work(opened())
    other = opened("seed=3")
    changes.keep_changed(other)
    (other.folder / "baseline.txt").unlink()
    assert work(other) == [True]
    assert reporting.of_stages(other)["in_spite_of"] == {"baseline": ["seed: 0 -> 3"]}
    for path in (checkpoint_of(other), other.folder / "baseline.txt"):
        path.unlink()
    assert work(other) == [False]
    assert reporting.of_stages(other)["in_spite_of"] == {}


def kill_at(patch, instant):
    """The next files but `instant` - 1 are written and removed, then the process is gone."""
    left = iter(range(instant - 1))

    def until_then(function):
        def call(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            function(*arguments)

        return call

    for name in ("write_json", "unlink"):
        patch.setattr(ledger, name, until_then(getattr(ledger, name)))


@pytest.mark.parametrize("instant", range(1, 6))
def test_a_kill_while_a_stage_is_done_again_mixes_nothing(opened, monkeypatch, instant):
    """Whatever was done by then, no checkpoint of the old settings is continued with the new ones."""
    interrupt(opened())
    assert work(opened()) == [True] and checkpoint_of(opened()).exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at(patch, instant)
        work(opened("seed=3"))
    finished = instant == 5  # what is no longer needed was left to be removed
    assert work(opened("seed=3")) == ([] if finished else [False])
    assert not list((opened().folder / "stages").glob("*.begun.json"))


def two_files(run, origin):
    return {"a.txt": {"scale": origin["data.scale"]}, "b.txt": {"seed": origin["seed"]}}


def make(opened):
    """Do the work of a stage that makes two files one by one: which files, and whether there was a checkpoint."""
    done = []

    def write(run, files):
        done.append((files, checkpoint_of(opened).exists()))
        for name in files:
            write_text(run.folder / name, f"made with seed {run.config.seed}")
        return files

    begin(opened, write, two_files)
    return done


@pytest.mark.parametrize("instant", range(1, 7))
def test_a_kill_while_a_file_is_made_again_mixes_nothing_and_keeps_the_others(opened, monkeypatch, instant):
    assert make(opened()) == [(["a.txt", "b.txt"], False)]
    assert interrupt(opened("seed=1"), two_files).exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at(patch, instant)
        make(opened("seed=3"))
    recorded = instant > 4  # only the manifest and the removal of what is no longer needed were left
    assert make(opened("seed=3")) == ([] if recorded else [(["b.txt"], False)])
    texts = [(opened().folder / name).read_text() for name in ("a.txt", "b.txt")]
    assert texts == ["made with seed 0", "made with seed 3"]
    assert not list((opened().folder / "stages").glob("*.begun.json")) and not checkpoint_of(opened()).exists()


def test_what_only_an_unfinished_stage_needs_is_removed(opened):
    path = interrupt(opened())
    for name in ("previous-baseline.checkpoint.npz", "baseline-val.partial.npz"):
        write_npz(path.with_name(name), {"x": 1})
    assert work(opened()) == [True]
    left = sorted(each.name for each in opened().folder.iterdir())
    assert left == ["baseline.checkpoint.npz", "baseline.txt", "stages"]
    assert [each.name for each in (opened().folder / "stages").iterdir()] == ["baseline.json"]
