"""What has changed since a stage was finished or begun: refused, done again, or kept and noted."""

import dataclasses

import pytest

from gluon_confseg import chain, config, reporting, results, run
from gluon_confseg.data import open_dataset, synthetic
from gluon_confseg.errors import ConfsegError
from gluon_confseg.files import write_npz, write_text
from gluon_confseg.places import CONFIGS
from gluon_confseg.stages import stages_of

BASELINE = stages_of(config.load(CONFIGS / "camvid.yaml"))[0]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = synthetic.ensure("camvid", tmp_path_factory.mktemp("data") / "d", train=2, val=1, size=(32, 32), seed=0)
    return [open_dataset("camvid", root, split) for split in ("train", "val")]


@pytest.fixture
def opened(splits, tmp_path):
    def get(*overrides):
        settings = config.load(CONFIGS / "camvid.yaml", overrides)
        return run.Run(settings, tmp_path, splits[0].labels, [], *splits, "built-in")

    return get


def begin(opened, work=lambda run: pytest.fail("nothing was to be done")):
    chain.run_stage(opened, dataclasses.replace(BASELINE, work=work))


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


def interrupt(opened):
    """Begin the stage, and leave a checkpoint."""

    def stop(run):
        write_npz(checkpoint_of(opened), {"x": 1})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(opened, stop)
    return checkpoint_of(opened)


def with_versions(monkeypatch, **changed):
    now = chain.versions()
    monkeypatch.setattr(chain, "versions", lambda: {**now, **changed})


def test_a_finished_stage_of_other_settings_is_refused_with_the_list(opened):
    work(opened())
    chain.refuse_changed(opened())
    with pytest.raises(ConfsegError) as refused:
        chain.refuse_changed(opened("seed=3", "baseline.learning_rate=0.5"))
    said = str(refused.value)
    assert "stage baseline was finished with other" in said and "--restart" in said and "--allow-different" in said
    assert "seed: 0 -> 3" in said and "baseline.learning_rate: 0.03 -> 0.5" in said


def test_a_begun_stage_is_not_continued_with_other_versions(opened, monkeypatch, caplog):
    interrupt(opened())
    chain.refuse_changed(opened())
    with_versions(monkeypatch, mxnet="1.9.2", numpy="1.0", platform="another")
    with pytest.raises(ConfsegError, match=r"begun with .* \(numpy .* -> 1.0; mxnet .* -> 1.9.2\)"):
        chain.refuse_changed(opened())
    assert work(opened()) == [False]  # --restart: without the checkpoint
    assert "baseline: begun again, because of numpy" in caplog.text


def test_a_finished_stage_stays_with_other_versions(opened, monkeypatch):
    work(opened())
    before = chain.versions()
    with_versions(monkeypatch, mxnet="1.9.2")
    chain.refuse_changed(opened())
    begin(opened())
    assert reporting.other_versions(opened(), chain.versions()) == {"baseline": before}


def test_nothing_is_refused_where_there_is_nothing_to_lose(opened):
    with pytest.raises(KeyboardInterrupt):
        begin(opened(), lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    chain.refuse_changed(opened("seed=4"))


def test_what_is_kept_in_spite_of_differences_is_noted(opened, caplog):
    work(opened())
    report = run.manifest_path(opened().folder, "report")
    write_text(report, "{}")
    other = opened("seed=3")
    chain.keep_changed(other)
    assert "baseline: finished before, and kept in spite of seed: 0 -> 3" in caplog.text and not report.exists()
    assert reporting.accepted_differences(other) == {"baseline": ["seed: 0 -> 3"]}
    chain.refuse_changed(other)  # it has been accepted
    begin(other)
    with pytest.raises(ConfsegError, match="seed: 3 -> 0"):
        chain.refuse_changed(opened())
    assert work(opened()) == [False]  # --restart: the note goes
    assert reporting.accepted_differences(other) == {}


def test_what_is_continued_in_spite_of_differences_is_noted(opened, monkeypatch):
    interrupt(opened())
    with_versions(monkeypatch, mxnet="1.9.2")
    chain.keep_changed(opened("baseline.learning_rate=0.5"))
    assert work(opened("baseline.learning_rate=0.5")) == [True]
    changed = reporting.accepted_differences(opened())["baseline"]
    assert changed[0] == "baseline.learning_rate: 0.03 -> 0.5"
    assert changed[1].startswith("mxnet ") and changed[1].endswith("-> 1.9.2")


def test_a_lost_output_is_made_again_from_the_checkpoint(opened, caplog):
    interrupt(opened())
    assert work(opened()) == [True]
    (opened().folder / "baseline.txt").unlink()
    chain.refuse_changed(opened())
    assert work(opened()) == [True]
    assert "done again, because of missing baseline.txt" in caplog.text


def test_an_output_that_was_changed_is_refused(opened):
    work(opened())
    write_text(opened().folder / "baseline.txt", "edited")
    with pytest.raises(ConfsegError, match="baseline.txt is not the file that was written"):
        chain.refuse_changed(opened())
    chain.keep_changed(opened())
    chain.refuse_changed(opened())
    begin(opened())


def test_a_damaged_manifest_is_named_by_all_who_read_it(opened):
    work(opened())
    write_text(run.manifest_path(opened().folder, "baseline"), '{"made_from": {}, "outputs": {}}')
    for read in (chain.refuse_changed, chain.keep_changed, begin, reporting.seconds_of, reporting.accepted_differences):
        with pytest.raises(ConfsegError, match="baseline.json does not say what its stage was made from .seconds."):
            read(opened())


@pytest.mark.parametrize("killed_in", ["write_json", "_unlink", "_remove_checkpoints"])
def test_a_kill_while_a_stage_is_begun_again_mixes_nothing(opened, monkeypatch, killed_in):
    """Whatever was done by then, no checkpoint of the old settings is continued with the new ones."""
    interrupt(opened())
    assert work(opened()) == [True] and checkpoint_of(opened()).exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chain, killed_in, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        begin(opened("seed=3"))
    assert work(opened("seed=3")) == [False]


def test_what_only_an_unfinished_stage_needs_is_removed(opened):
    path = interrupt(opened())
    for name in ("previous-baseline.checkpoint.npz", "baseline-val.partial.npz"):
        write_npz(path.with_name(name), {"x": 1})
    assert work(opened()) == [True]
    left = sorted(each.name for each in opened().folder.iterdir())
    assert left == ["baseline.checkpoint.npz", "baseline.txt", "stages"]
    assert [each.name for each in (opened().folder / "stages").iterdir()] == ["baseline.json"]


def test_results_name_what_was_accepted():
    from test_results import tree

    found = results.parse({**tree(), "in_spite_of": {"baseline": ["seed: 0 -> 3"]}}, "test")
    assert "warning: stage baseline was kept or continued with other" in results.run_table(found)
    assert "in_spite_of" not in results.parse(tree(), "test").model_dump()
