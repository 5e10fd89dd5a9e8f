"""A run's own files, damaged or of another run: made again, fallen back from, or refused in one line."""

import io
import json

import numpy as np
import pytest
from targets import TARGETS

from gluon_confseg import manifests, preflight, results, run
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CAMVID


def checkpoint_with(tmp_path, **changes):
    target = TARGETS["checkpoint_meta"]
    meta = {**json.loads(target.seeds[0]), **changes}
    (tmp_path / "file.npz").write_bytes(target.wrap(json.dumps(meta).encode()))
    target.read(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "3"},
        {"epoch": -1},
        {"epoch": 1.5},
        {"update": 10**400},
        {"seconds": "long"},
        {"seconds": float("nan")},
        {"loss_scales": [{}]},
        {"loss_scales": [{"value": 0, "steady": 0}]},
        {"metrics": [1]},
        {"course": 3},
    ],
)
def test_a_checkpoint_that_says_what_cannot_be_falls_back(tmp_path, caplog, changes):
    checkpoint_with(tmp_path, **changes)
    assert "file.npz is no checkpoint; delete it and run again; falling back" in caplog.text


METRICS = json.loads(TARGETS["checkpoint_meta"].seeds[0])["metrics"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"metrics": None}, "losses and counts of the heads"),
        ({"metrics": {**METRICS, "losses": {"other": 1.0}}}, "losses and counts of the heads"),
        ({"metrics": {**METRICS, "counts": {"a": [[1]], "b": [[1]]}}}, "a: counts of another number of classes"),
        ({"metrics": {**METRICS, "counts": {"a": [[1], [1, 2]], "b": []}}}, "losses and counts of the heads"),
        ({"metrics": {**METRICS, "counts": {"a": [[2**63]], "b": []}}}, "losses and counts of the heads"),
        ({"metrics": {**METRICS, "counts": {"a": [[-1, 0], [0, 0]], "b": []}}}, "whole numbers of pixels >= 0"),
        ({"course": {}}, "no moving confusion matrix and pulls"),
        ({"course": {"confusion": "x", "pulls": []}}, "no moving confusion matrix and pulls"),
        ({"course": {"confusion": [[1.0]], "pulls": []}}, "of shape"),
        ({"course": {"confusion": [[-1.0, 0], [0, 0]], "pulls": []}}, "no numbers of pixels"),
        ({"course": {"confusion": [[1e300, 0], [0, 0]], "pulls": []}}, "no numbers of pixels"),
        ({"course": {"confusion": [[1, 0], [0, 0]], "pulls": [[1.0]]}}, "no moving confusion matrix and pulls"),
        ({"course": {"confusion": [[1, 0], [0, 0]], "pulls": {}}}, "no moving confusion matrix and pulls"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changes, reason):
    with pytest.raises(ConfsegError, match=f"file.npz belongs to another training .*{reason}"):
        checkpoint_with(tmp_path, **changes)


@pytest.mark.parametrize(
    "text", ["{}", "[[1, 2, 3]]", "[[1, 2], [3, 4]]", '[["1", 2, 3], [1, 2, 3]]', "[[-1, 2, 3], [1, 2, 3]]"]
)
def test_norms_of_another_training_are_refused(tmp_path, text):
    with pytest.raises(ConfsegError, match="file.json does not hold 2 x 3 norms"):
        (tmp_path / "file.json").write_text(text)
        TARGETS["pulls"].read(tmp_path / "file.json")


@pytest.mark.parametrize(
    "change",
    [{"pixels": [2**70, 0]}, {"pixels": [1]}, {"pixels": [-1, 0]}, {"largest": [1e300, 1]}, {"pixels": [[1, 2], [3]]}],
)
def test_label_counts_that_cannot_be_are_counted_again(change):
    kept = json.loads(TARGETS["label_counts"].seeds[0])
    assert preflight._counted_before(kept, "train", "0", classes=2).pixels.tolist() == [6, 0]
    kept["train"].update(change)
    assert preflight._counted_before(kept, "train", "0", classes=2) is None


@pytest.mark.parametrize(
    "name, member, message",
    [
        ("counts", np.eye(3, dtype=int), "does not hold the counts of this run's cells"),
        ("decoded", np.zeros((2, 3, 4), np.uint8), "is damaged; it is made again"),
        ("decoded", np.zeros((2, 3, 3), np.float32), "is damaged; it is made again"),
    ],
)
def test_arrays_of_another_form(tmp_path, caplog, name, member, message):
    path, body = tmp_path / "file.npz", io.BytesIO()
    np.save(body, member)
    path.write_bytes(TARGETS[name].wrap(body.getvalue()))
    try:
        TARGETS[name].read(path)
        said = caplog.text
    except ConfsegError as error:
        said = str(error)
    assert message in said


@pytest.mark.parametrize(
    "change", [{"0/image": None}, {"0/a": np.zeros((5, 4), np.uint8)}, {"0/label": np.zeros((4, 5))}]
)
def test_samples_of_another_form(tmp_path, change):
    with np.load(io.BytesIO(TARGETS["samples"].seeds[0])) as archive:
        arrays = {key: value for key, value in {**archive, **change}.items() if value is not None}
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ConfsegError, match="samples.npz does not hold this run's images"):
        TARGETS["samples"].read(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"confusion": [[2**63, 0], [0, 4]]}, "cells.0.confusion.0.0"),
        ({"confusion": [[3, 0], [0]]}, "not 2x2"),
        ({"confusion": [[2**62, 2**62], [0, 4]]}, "2\\^63 pixels"),
        ({"title": "a\x1b[2Jb"}, "one line of printable text"),
        ({"title": "a\nb"}, "one line of printable text"),
        ({"key": "../../a"}, "cells.0.key"),
    ],
)
def test_results_that_claim_what_cannot_be(tmp_path, change, reason):
    tree = json.loads(TARGETS["results"].seeds[0])
    tree["cells"][0].update(change)
    with pytest.raises(ConfsegError, match=reason):
        results.parse(tree, "results.json")


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[1]",
        "- {classes: [Road, Pavement]}",
        "- {classes: [Road, Nowhere], reason: r}",
        "- [Road, Pavement]",
        "{a: 1}",
        "- {classes: 3, reason: r}",
        "- {classes: [[Road], Pavement], reason: r}",
    ],
)
def test_groups_of_another_form(tmp_path, text):
    this = run.TrainedRun(None, tmp_path, CAMVID, [])
    with pytest.raises(ConfsegError, match="cannot read .*groups.yaml"):
        run.read_groups(this)
    (tmp_path / run.GROUPS_FILE).write_text(text)
    with pytest.raises(ConfsegError, match="does not hold this run's groups"):
        run.read_groups(this)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"made_from": [], "outputs": {}, "seconds": 1}',
        '{"made_from": {}, "outputs": {}, "seconds": "1"}',
        '{"made_from": {}}',
    ],
)
def test_manifests_of_another_form(tmp_path, text):
    path = tmp_path / "stage.json"
    path.write_text(text)
    with pytest.raises(ConfsegError, match="does not say what its stage was made from"):
        manifests.read(path)


def test_records_and_begun_stages_of_another_form(tmp_path):
    path = tmp_path / "stage.json"
    for text, read in (
        ('{"made_from": 3}', manifests.read_made_from),
        ('{"made_from": {"cells": [1]}}', manifests.read_made_from),
        ('{"made_from": {"cells": 1}}', manifests.read_made_from),
        ('{"files": []}', manifests.read_begun),
        ('{"files": {"a": 1}}', manifests.read_begun),
        ('{"a": {"made_from": {}}}', manifests.read_records),
    ):
        path.write_text(text)
        with pytest.raises(ConfsegError, match="stage.json does not say what its stage was made from"):
            read(path)
    path.write_text('{"made_from": {"a": 1}}')
    assert manifests.read_made_from(path) == {"a": 1} and "files" not in manifests.read_begun(path)
