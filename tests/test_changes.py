"""What has changed since a stage was finished or begun: refused, or kept and noted."""

import pytest
from one_stage import begin, interrupt, work

from gluon_confseg import changes, ledger, reporting, results, run
from gluon_confseg.errors import ConfsegError
from gluon_confseg.files import write_text


def with_versions(monkeypatch, **changed):
    now = ledger.versions()
    monkeypatch.setattr(ledger, "versions", lambda: {**now, **changed})


def test_a_finished_stage_of_other_settings_is_refused_with_the_list(opened):
    work(opened())
    changes.refuse_changed(opened())
    with pytest.raises(ConfsegError) as refused:
        changes.refuse_changed(opened("seed=3", "baseline.learning_rate=0.5"))
    said = str(refused.value)
    assert "stage baseline was finished with other" in said and "--restart" in said and "--allow-different" in said
    assert "seed: 0 -> 3" in said and "baseline.learning_rate: 0.03 -> 0.5" in said


def test_a_begun_stage_is_not_continued_with_other_versions(opened, monkeypatch, caplog):
    interrupt(opened())
    changes.refuse_changed(opened())
    with_versions(monkeypatch, mxnet="1.9.2", numpy="1.0", platform="another")
    with pytest.raises(ConfsegError, match=r"begun with .* \(numpy .* -> 1.0; mxnet .* -> 1.9.2\)"):
        changes.refuse_changed(opened())
    assert work(opened()) == [False]  # --restart: without the checkpoint
    assert "baseline: begun again, because of numpy" in caplog.text


def test_a_finished_stage_stays_with_other_versions(opened, monkeypatch):
    work(opened())
    before = ledger.versions()
    with_versions(monkeypatch, mxnet="1.9.2")
    changes.refuse_changed(opened())
    begin(opened())
    monkeypatch.setattr(reporting, "versions", ledger.versions)
    assert reporting.of_stages(opened())["versions"] == {**ledger.versions(), "stages": {"baseline": before}}


def test_nothing_is_refused_where_there_is_nothing_to_lose(opened):
    with pytest.raises(KeyboardInterrupt):
        begin(opened(), lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    changes.refuse_changed(opened("seed=4"))


def test_what_is_kept_in_spite_of_differences_is_noted(opened, caplog):
    work(opened())
    report = run.manifest_path(opened().folder, "report")
    write_text(report, "{}")
    other = opened("seed=3")
    changes.keep_changed(other)
    assert "baseline: finished before, and kept in spite of seed: 0 -> 3" in caplog.text and not report.exists()
    assert reporting.of_stages(other)["in_spite_of"] == {"baseline": ["seed: 0 -> 3"]}
    changes.refuse_changed(other)  # it has been accepted
    begin(other)
    with pytest.raises(ConfsegError, match="seed: 3 -> 0"):
        changes.refuse_changed(opened())
    assert work(opened()) == [False]  # --restart: the note goes
    assert reporting.of_stages(other)["in_spite_of"] == {}


def test_what_is_continued_in_spite_of_differences_is_noted(opened, monkeypatch):
    interrupt(opened())
    with_versions(monkeypatch, mxnet="1.9.2")
    changes.keep_changed(opened("baseline.learning_rate=0.5"))
    assert work(opened("baseline.learning_rate=0.5")) == [True]
    changed = reporting.of_stages(opened())["in_spite_of"]["baseline"]
    assert changed[0] == "baseline.learning_rate: 0.03 -> 0.5"
    assert changed[1].startswith("mxnet ") and changed[1].endswith("-> 1.9.2")


def test_an_output_that_was_changed_is_refused(opened):
    work(opened())
    write_text(opened().folder / "baseline.txt", "edited")
    with pytest.raises(ConfsegError, match="baseline.txt is not the file that was written"):
        changes.refuse_changed(opened())
    changes.keep_changed(opened())
    changes.refuse_changed(opened())
    begin(opened())


def test_a_damaged_manifest_is_named_by_all_who_read_it(opened):
    work(opened())
    write_text(run.manifest_path(opened().folder, "baseline"), '{"made_from": {}, "outputs": {}}')
    for read in (changes.refuse_changed, changes.keep_changed, begin, reporting.of_stages):
        with pytest.raises(ConfsegError, match="baseline.json does not say what its stage was made from .seconds."):
            read(opened())


def test_results_name_what_was_accepted():
    from test_results import tree

    found = results.parse({**tree(), "in_spite_of": {"baseline": ["seed: 0 -> 3"]}}, "test")
    assert "warning: stage baseline was kept or continued with other" in results.run_table(found)
    assert "in_spite_of" not in results.parse(tree(), "test").model_dump()
