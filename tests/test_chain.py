"""A finished run is extended: heads that are missing or changed are trained, the others kept; older runs' too."""

import json
import shutil

import pytest
import yaml

from gluon_confseg import config, pipeline
from gluon_confseg.errors import ConfsegError
from gluon_confseg.origins import heads_of, subnet_settings
from gluon_confseg.places import CONFIGS
from gluon_confseg.run import manifest_path

TINY = [
    "data.built_in={train: 4, val: 2, size: [64, 96]}",
    "augment.crop=[48, 64]",
    "baseline={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0, learning_rate: 0.01}",
    "subnets={epochs: 2, batch_size: 2, max_updates_per_epoch: 2, warmup: 0}",
    "subnet0.channels=8",
    "subnet.channels=8",
    "groups.source=[[Road, Pavement], [Car, Pedestrian]]",
    "devices=[cpu:0]",
]
BASELINE = {"key": "subnet0_ce", "title": "baseline", "role": "baseline"}
FEW = {
    "losses": {"ce": {"kind": "cross_entropy"}, "focal": {"kind": "focal"}},
    "cells": [BASELINE, {"key": "subnets_ce", "title": "subnets", "role": "paper", "subnet0": "ce", "subnets": "ce"}],
}
MORE = {
    "losses": {
        **FEW["losses"],
        "new": {"kind": "confusion"},
        "val": {"kind": "recall_weighted", "counted_on": "val", "stride": 2},
    },
    "cells": [
        *FEW["cells"],
        {"key": "new", "title": "new loss", "subnet0": "new", "subnets": "new"},
        {"key": "ordinary", "title": "ordinary heads", "subnet0": "val", "subnets": "ce", "spaces": "all"},
        {"key": "random", "title": "random groups", "subnets": "val", "spaces": "random", "shape": ["near"]},
    ],
    "shapes": {"near": {"channels": 8, "dilation": 1}},
    "comparisons": {"new": ["ordinary"]},
}
KEPT = {"subnet0.ce.params", "subnet1.ce.params", "subnet2.ce.params"}


@pytest.fixture(scope="module")
def run_tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

        def call(folder, overlay, *overrides, **options):
            settings = [*TINY, *overrides]
            return pipeline.run(
                CONFIGS / "camvid.yaml", overrides=settings, output=str(folder), overlay=overlay, **options
            )

        yield call


@pytest.fixture(scope="module")
def few(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("few") / "run", FEW)


@pytest.fixture(scope="module")
def together(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("together") / "run", MORE)


@pytest.fixture
def copied(few, tmp_path):
    return shutil.copytree(few, tmp_path / "run")


def log(folder):
    return (folder / "run.log").read_text(encoding="utf-8")


def made_last(folder):
    """Heads that the last run in a folder trained."""
    lines = [line for line in log(folder).splitlines() if "training" in line and "heads on the frozen encoder" in line]
    return {f"{name}.params" for line in lines[-1:] for name in line.split(": ", 1)[1].split(", ")}


def results_of(folder):
    tree = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {key: value for key, value in tree.items() if key != "seconds"}


def make_older(folder):
    """Take back what runs of before the records did not have."""
    baseline = json.loads(manifest_path(folder, "baseline").read_text())["made_from"]
    for stage in ("confusion", "subnets"):
        (folder / "stages" / f"{stage}.files.json").unlink()
        path = manifest_path(folder, stage)
        manifest = json.loads(path.read_text())
        inherited = [key for key in baseline if not key.startswith("images of")]
        manifest["made_from"] = in_words({k: v for k, v in manifest["made_from"].items() if k not in inherited})
        path.write_text(json.dumps(manifest))


def in_words(made_from):
    if "heads" in made_from:
        of_one_loss = [entry for entry in made_from["heads"] if " " not in entry[1]]  # they had no others
        entries = [[entry[0].replace("groups", "group"), *entry[1:]] for entry in of_one_loss]
        made_from["heads"] = [*map(" ".join, entries), "group None"]
    return made_from


@pytest.mark.parametrize("older", [False, True])
def test_extended_is_the_same_as_trained_together(run_tiny, copied, together, older):
    before = {name: (copied / name).stat().st_mtime_ns for name in (*KEPT, "encoder.params", "confusion.npz")}
    if older:
        make_older(copied)
    run_tiny(copied, MORE)
    assert {name: (copied / name).stat().st_mtime_ns for name in before} == before  # none was written again
    files = sorted(file.name for file in together.glob("*.params"))
    assert KEPT < set(files) and made_last(copied) == set(files) - KEPT - {"encoder.params", "subnet0.baseline.params"}
    for name in files:
        assert (copied / name).read_bytes() == (together / name).read_bytes(), name
    assert results_of(copied) == results_of(together)
    assert "subnets: kept as they are: subnet0.ce.params, subnet1.ce.params, subnet2.ce.params" in log(copied)
    records = json.loads((copied / "stages" / "subnets.files.json").read_text())
    assert records["subnet0.val.params"]["made_from"]["file confusion-val.npz"]
    assert records["subnet1.ce.all.params"]["made_from"]["losses.ce.kind"] == "cross_entropy"


def test_fewer_cells_and_again_more_train_nothing(run_tiny, together, tmp_path):
    folder = shutil.copytree(together, tmp_path / "run")
    before = results_of(folder)
    run_tiny(folder, FEW)
    assert [cell["key"] for cell in results_of(folder)["cells"]] == ["subnet0_ce", "subnets_ce"]
    run_tiny(folder, MORE)
    assert results_of(folder) == before
    assert log(folder).count("heads on the frozen encoder") == 1


def test_another_loss_needs_restart_which_trains_its_heads_only(run_tiny, copied):
    changed = {**FEW, "losses": {"ce": {"kind": "focal", "gamma": 1.0}}}
    with pytest.raises(ConfsegError, match="stage subnets was finished with other settings.*losses.ce.kind: cross"):
        run_tiny(copied, changed)
    cells = [*FEW["cells"], {"key": "focal", "title": "focal", "subnet0": "focal"}]
    run_tiny(copied, {**FEW, "cells": cells})
    changed = {"losses": {**FEW["losses"], "focal": {"kind": "focal", "gamma": 1.0}}, "cells": cells}
    run_tiny(copied, changed, restart=True)
    assert made_last(copied) == {"subnet0.focal.params"}
    assert "subnets: done again, because of losses.focal.gamma: 2.0 -> 1.0: subnet0.focal.params" in log(copied)


def test_another_loss_is_kept_with_allow_different_and_noted(run_tiny, copied):
    before = {name: (copied / name).read_bytes() for name in KEPT}
    changed = {**FEW, "losses": {"ce": {"kind": "focal", "gamma": 1.0}}}
    run_tiny(copied, changed, allow_different=True)
    assert {name: (copied / name).read_bytes() for name in KEPT} == before
    assert results_of(copied)["in_spite_of"]["subnets"][0] == "losses.ce.gamma: None -> 1.0"
    run_tiny(copied, changed)
    assert log(copied).count("heads on the frozen encoder") == 1


def test_heads_of_a_stage_that_is_not_finished_are_kept_with_allow_different_and_noted(run_tiny, copied):
    manifest_path(copied, "subnets").unlink()
    changed = {**FEW, "losses": {"ce": {"kind": "focal", "gamma": 1.0}}}
    run_tiny(copied, changed, allow_different=True)
    assert log(copied).count("heads on the frozen encoder") == 1
    assert results_of(copied)["in_spite_of"]["subnets"][0] == "losses.ce.gamma: None -> 1.0"


def test_a_cell_that_is_another_one_is_refused(run_tiny, copied):
    cells = [BASELINE, {**FEW["cells"][1], "rule": "product"}]
    with pytest.raises(ConfsegError, match="stage evaluate.*cell subnets_ce: rule: sum -> product"):
        run_tiny(copied, {**FEW, "cells": cells})


def test_a_head_whose_file_is_gone_is_trained_again(run_tiny, copied):
    (copied / "subnet2.ce.params").unlink()
    run_tiny(copied, FEW)
    assert made_last(copied) == {"subnet2.ce.params"}


@pytest.mark.parametrize("older", [False, True])
def test_what_was_begun_is_finished_before_more_is_made(run_tiny, few, together, tmp_path, monkeypatch, older):
    from gluon_confseg import training

    def stop(*_, **__):
        raise KeyboardInterrupt

    folder, save = tmp_path / "run", training.checkpoint.Kept.save
    with monkeypatch.context() as patch:
        # ends when the first epoch of the heads is saved
        patch.setattr(
            training.checkpoint.Kept,
            "save",
            lambda kept, *a: (save(kept, *a), "subnets" in kept._path.name and stop())[0],
        )
        with pytest.raises(KeyboardInterrupt):
            run_tiny(folder, FEW)
    begun = folder / "stages" / "subnets.begun.json"
    assert set(json.loads(begun.read_text())["files"]) == KEPT
    if older:
        made_from = in_words(json.loads(manifest_path(few, "subnets").read_text())["made_from"])
        begun.write_text(json.dumps({"made_from": made_from}))
    with pytest.raises(ConfsegError, match="begun with other settings.*no cell needs subnet1.ce.params"):
        run_tiny(folder, {**FEW, "cells": [BASELINE]})
    run_tiny(folder, MORE)
    assert "subnets: continuing after epoch 1 of 2" in log(folder)
    for name in KEPT:
        assert (folder / name).read_bytes() == (few / name).read_bytes()
    assert results_of(folder) == results_of(together)
    assert not list(folder.glob("*subnets.checkpoint.npz")) and not begun.exists()


def test_heads_of_the_repositorys_study():
    """From a manifest's words the same heads, in the same order, as from the cells."""
    from gluon_confseg.building import needed_heads
    from gluon_confseg.run import BASELINE as FIRST

    tree = yaml.safe_load((CONFIGS.parent / "study.yaml").read_text(encoding="utf-8"))
    del tree["seeds"]
    settings = config.load(CONFIGS / "camvid.yaml", overlay=tree)
    wanted = [name for name in needed_heads(settings.cells, 3) if name.loss != FIRST]
    heads = subnet_settings(settings)["heads"]
    assert heads_of(heads, 3) == wanted and len(wanted) > 30
    assert heads_of(in_words({"heads": heads})["heads"], 3) == wanted
