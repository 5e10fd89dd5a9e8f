"""Settings: inheritance, overrides, and an error that names the file and the key."""

import pytest
import yaml

from gluon_confseg import config
from gluon_confseg.building import needed_heads
from gluon_confseg.config_losses import LOSS_OPTIONS, LOSS_SETTINGS, Loss
from gluon_confseg.config_tree import batch_size_of_file
from gluon_confseg.errors import ConfsegError
from gluon_confseg.origins import heads_of, subnet_settings
from gluon_confseg.places import CONFIGS

MINIMAL = {
    "name": "x",
    "data": {"name": "camvid"},
    "losses": {"ce": {"kind": "cross_entropy"}},
    "cells": [{"key": "a", "title": "A", "role": "baseline"}, {"key": "b", "title": "B", "subnet0": "ce"}],
}
NAMES = sorted(path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("_"))


def write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("path", NAMES, ids=lambda path: path.stem)
def test_every_config_of_the_project_is_valid_and_says_what_it_is_for(path):
    settings = config.load(path)
    assert config.parse(config.to_tree(settings), "again") == settings
    if settings.without_data:
        assert config.load(path.parent / settings.without_data).data.name == settings.data.name
    head = path.read_text().split("\n_base_")[0]
    assert head.startswith("# ") and "Command: tools/run_experiment.sh" in head


def test_inheritance_merges_mappings_and_replaces_lists(tmp_path):
    write(tmp_path / "base.yaml", {**MINIMAL, "baseline": {"epochs": 3, "batch_size": 4}, "augment": {"crop": [8, 8]}})
    child = {"_base_": "base.yaml", "baseline": {"epochs": 5}, "augment": {"crop": [16, 24]}}
    settings = config.load(write(tmp_path / "child.yaml", child))
    assert (settings.baseline.epochs, settings.baseline.batch_size) == (5, 4)
    assert settings.augment.crop == (16, 24)


def test_overrides_are_yaml_and_come_last(tmp_path):
    path = write(tmp_path / "a.yaml", MINIMAL)
    settings = config.load(path, ["baseline.epochs=2", "augment.scale=[1, 2]", "groups.source=[[Road, Car]]", "seed=4"])
    assert settings.baseline.epochs == 2 and settings.augment.scale == (1, 2) and settings.seed == 4
    assert settings.groups.source == (("Road", "Car"),)


def test_settings_cannot_be_changed(tmp_path):
    settings = config.load(write(tmp_path / "a.yaml", MINIMAL))
    with pytest.raises(ValueError):
        settings.seed = 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'"),
        ({"baseline": {"epocs": 1}}, "unknown key 'baseline.epocs'; did you mean 'epochs'"),
        ({"baseline": {"epochs": -1}}, "baseline.epochs: .*greater than or equal to 0"),
        ({"subnets": {"epochs": 0}}, "subnets.epochs: .*greater than 0"),
        ({"baseline": {"epochs": 0}, "encoder": {"weights": "a"}}, "wants encoder.weights and subnet0.weights"),
        ({"baseline": {"learning_rate": float("nan")}}, "baseline.learning_rate"),
        ({"data": {}}, "the key 'data.name' is missing"),
        ({"augment": {"scale": [2, 1]}}, "augment.scale: wants 0 < low <= high"),
        ({"cells": [{"key": "a", "title": "A"}]}, "the first cell, and no other, has role: baseline"),
        ({"cells": MINIMAL["cells"] + MINIMAL["cells"][1:]}, "two cells have the same key"),
        ({"cells": [*MINIMAL["cells"], {"key": "c", "title": "C", "subnet0": "nw"}]}, "c uses the loss 'nw'"),
        ({"losses": {"ce": {"kind": "cross_entropy"}, "baseline": {"kind": "cross_entropy"}}}, "'baseline' is taken"),
        ({"groups": {"source": "atuo"}}, "groups.source"),
        (
            {"losses": {"a": {"kind": "ohem", "gamma": 3}}},
            "losses.a: ohem has no setting 'gamma'; it has thr",
        ),
        ({"losses": {"a": {"kind": "cross_entropy", "lam": 2}}}, "cross_entropy has no setting 'lam'; it has none"),
        ({"losses": {"a": {"kind": "loss_max_pooling", "p": 1}}}, "losses.a.p: .*greater than or equal to 1.1"),
        ({"losses": {"a": {"kind": "focal", "gama": 3}}}, "unknown key 'losses.a.gama'; did you mean 'gamma'"),
    ],
)
def test_a_wrong_setting_names_the_file_and_the_key(tmp_path, change, message):
    path = write(tmp_path / "wrong.yaml", {**MINIMAL, **change})
    with pytest.raises(ConfsegError, match=message) as error:
        config.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
        ("_base_: loop.yaml", "circle"),
        ("_base_: [a, b]", "_base_ must be"),
        ("_base_: none.yaml", "cannot read the config"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "loop.yaml"
    path.write_text(text)
    with pytest.raises(ConfsegError, match=message):
        config.load(path)


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[", "name.sub=1"])
def test_an_override_that_is_none(tmp_path, override):
    with pytest.raises(ConfsegError, match="--set"):
        config.load(write(tmp_path / "a.yaml", MINIMAL), [override])


def test_a_loss_is_written_with_the_settings_of_its_kind():
    tree = {**MINIMAL, "losses": {"ce": {"kind": "cross_entropy"}, "focal": {"kind": "focal", "gamma": 3}}}
    written = config.to_tree(config.parse(tree, "x"))["losses"]
    # what finished runs have in their manifests: it must not change
    assert written["ce"] == {"kind": "cross_entropy", "lam": 5.0, "diagonal": "confusion"}
    assert written["focal"] == {"kind": "focal", "lam": 5.0, "diagonal": "confusion", "gamma": 3}


def test_shapes_of_a_cell_are_names_in_shapes():
    tree = {**MINIMAL, "shapes": {"wide": {"channels": 64}, "deep": {"hidden": 2}}}
    cells = [*MINIMAL["cells"], {"key": "c", "title": "C", "subnets": "ce", "shape": "wide"}]
    cells.append({"key": "d", "title": "D", "subnets": "ce", "shape": ["deep", "wide"]})
    found = config.parse({**tree, "cells": cells}, "here")
    assert [cell.shapes for cell in found.cells] == [(), (), ("wide",), ("deep", "wide")]
    assert config.parse(config.to_tree(found), "there") == found
    names = [str(name) for name in needed_heads(found.cells, 3) if name.subnet]
    assert names == ["subnet1.ce.deep", "subnet1.ce.wide", "subnet2.ce.wide", "subnet3.ce.deep", "subnet3.ce.wide"]
    for wrong, message in (
        ({"subnets": "ce", "shape": "thin"}, "e uses the shape 'thin'; shapes: has wide, deep"),
        ({"shape": "wide"}, "this cell has none"),
        ({"subnets": "ce", "shape": []}, "this cell has none"),
    ):
        with pytest.raises(ConfsegError, match=message):
            config.parse({**tree, "cells": [*MINIMAL["cells"], {"key": "e", "title": "E", **wrong}]}, "here")


def test_losses_that_the_heads_of_a_cell_take_in_turn():
    tree = {**MINIMAL, "losses": {name: {"kind": "cross_entropy"} for name in ("ce", "other")}}
    cells = [MINIMAL["cells"][0], {"key": "c", "title": "C", "subnets": ["ce", "other"], "spaces": "all"}]
    found = config.parse({**tree, "cells": cells}, "here")
    assert [cell.losses_in_turn for cell in found.cells] == [(), ("ce", "other")]
    assert config.parse(config.to_tree(found), "there") == found
    names = [str(name) for name in needed_heads(found.cells, 3) if name.subnet]
    assert names == ["subnet1.ce.all", "subnet2.other.all", "subnet3.ce.all"]
    assert heads_of(subnet_settings(found)["heads"], 3) == needed_heads(found.cells, 3)[1:]
    for wrong, message in (
        (["ce", "none"], "c uses the loss 'none'; losses: has ce, other"),
        ([], "the list is empty"),
    ):
        with pytest.raises(ConfsegError, match=message):
            config.parse({**tree, "cells": [cells[0], {**cells[1], "subnets": wrong}]}, "here")


def test_every_kind_of_loss_has_settings_that_exist():
    kinds = Loss.model_fields["kind"].annotation.__args__
    assert set(LOSS_SETTINGS) == set(kinds)
    used = {key for settings in LOSS_SETTINGS.values() for key in settings}
    assert used | {"kind", *LOSS_OPTIONS} == set(Loss.model_fields)


def test_the_batch_size_of_a_file_is_that_without_overrides(tmp_path):
    write(tmp_path / "base.yaml", {**MINIMAL, "baseline": {"batch_size": 16}})
    child = write(tmp_path / "child.yaml", {"_base_": "base.yaml", "subnets": {"epochs": 2}})
    assert config.load(child, ["baseline.batch_size=4"]).baseline.batch_size == 4
    assert batch_size_of_file(child, "baseline") == 16
    assert batch_size_of_file(child, "subnets") == config.load(child).subnets.batch_size == 8


JOINT = {
    **MINIMAL,
    "losses": {"ce": {"kind": "cross_entropy"}, "new": {"kind": "confusion"}},
    "baseline": {"epochs": 20, "learning_rate": 0.5},
    "joint": {
        "subnets": {"subnet0": "new", "subnets": "ce"},
        "heads": {"subnet0": "ce", "subnets": "ce", "spaces": "all", "schedule": {"epochs": 30}},
        "one": {"subnet0": "ce"},
    },
}


def joint_cells(*cells):
    return {"cells": [*MINIMAL["cells"], *({"title": cell["key"].upper(), **cell} for cell in cells)]}


def test_what_a_joint_training_and_its_cells_leave_open_is_filled_in():
    cells = joint_cells(
        {"key": "c", "joint": "subnets", "rule": "product"},
        {"key": "d", "joint": "heads"},
        {"key": "e", "joint": "heads", "subnets": None},
        {"key": "f", "joint": "one"},
    )
    found = config.parse({**JOINT, **cells}, "here")
    assert [(cell.subnet0, cell.subnets, cell.spaces) for cell in found.cells[2:]] == [
        ("new", "ce", "groups"),
        ("ce", "ce", "all"),
        ("ce", None, "groups"),
        ("ce", None, "groups"),
    ]
    assert config.used_joints(found) == ["subnets", "heads", "one"]
    schedule = found.joint["heads"].schedule
    assert (schedule.epochs, schedule.learning_rate) == (30, 0.5)  # the rest is the baseline's
    assert config.parse(config.to_tree(found), "again") == found
    names = [str(name) for name in needed_heads(found.cells, 2)]
    assert {"joint-subnets.subnet0", "joint-subnets.subnet2", "joint-heads.subnet1", "joint-one.subnet0"} <= set(names)
    assert len(names) == len(set(names)) == 9  # two frozen ones, two times three, and one


def test_joint_trainings_are_those_that_cells_have_and_those_that_these_follow():
    joint = {**JOINT["joint"], "heads": {"subnet0": "ce", "subnets": "ce", "spaces": "all", "pull_like": "subnets"}}
    found = config.parse({**JOINT, "joint": joint, **joint_cells({"key": "c", "joint": "heads"})}, "here")
    assert config.used_joints(found) == ["subnets", "heads"]


def test_settings_without_the_new_sections_are_written_as_before():
    tree = config.to_tree(config.parse(MINIMAL, "x"))
    assert "joint" not in tree and "held_out" not in tree["data"]
    assert all("joint" not in cell for cell in tree["cells"])
    assert config.to_tree(config.parse({**MINIMAL, "data": {"name": "camvid", "held_out": 0.25}}, "x"))["data"][
        "held_out"
    ] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"joint": {"a": {"subnet0": "no"}}}, "joint.a: there is no loss 'no'; losses: has ce, new"),
        ({"joint": {"a": {"subnet0": "ce", "subnet": "ce"}}}, "unknown key 'joint.a.subnet'; did you mean 'subnets'"),
        ({"joint": {"a b": {"subnet0": "ce"}}}, "joint.a b: the name is part of file names"),
        ({"joint": {"a": {"subnet0": "ce", "spaces": "all"}}}, "joint.a: spaces and pull_like are about the heads"),
        (
            {"joint": {"a": {"subnet0": "new", "plain_epochs": 20}}},
            "joint.a.plain_epochs: 20 leaves .* of the 20 epochs",
        ),
        ({"joint": {"a": {"subnet0": "ce", "schedule": {"epochs": 0}}}}, "joint.a.schedule.epochs: 0 trains nothing"),
        ({"joint": {"a": {"subnet0": "ce", "schedule": {"epoch": 1}}}}, "unknown key 'joint.a.schedule.epoch'"),
        (
            {"joint": {"a": {"subnet0": "ce", "subnets": "ce", "pull_like": "b"}}},
            "joint.a.pull_like: 'b' is no joint training before it that has subnets; there is none",
        ),
        (
            {"joint": {**JOINT["joint"], "like": {"subnet0": "ce", "subnets": "ce", "pull_like": "heads"}}},
            "joint.like.pull_like: heads has 30 epochs, this 20",
        ),
        (
            {"losses": {"ce": {"kind": "confusion", "counted_on": "val"}}, "joint": {"a": {"subnet0": "ce"}}},
            "joint.a: the loss 'ce' has counted_on",
        ),
        (
            joint_cells({"key": "c", "joint": "none"}),
            "c uses the joint training 'none'; joint: has heads, one, subnets",
        ),
        (joint_cells({"key": "c", "joint": "subnets", "subnets": "new"}), "c has the heads of the joint training"),
        (joint_cells({"key": "c", "joint": "subnets", "spaces": "all"}), "c has the heads of the joint training"),
        ({"cells": [{"key": "a", "title": "A", "role": "baseline", "joint": "one"}]}, "a is the baseline, the head of"),
        ({"data": {"name": "camvid", "held_out": 1}}, "data.held_out: .*less than 1"),
    ],
)
def test_joint_trainings_that_do_not_fit_are_refused(tmp_path, change, message):
    path = write(tmp_path / "wrong.yaml", {**JOINT, **change})
    with pytest.raises(ConfsegError, match=message) as error:
        config.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
