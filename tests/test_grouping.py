"""`confseg groups`: groups, reasons and weights from a matrix that anybody wrote."""

import csv

import numpy as np
import pytest
import yaml

from gluon_confseg import grouping
from gluon_confseg.config_tree import read_tree
from gluon_confseg.errors import ConfsegError
from gluon_confseg.files import read_npz

NAMES = ["road", "walk", "person", "rider", "sky", "moon"]
# road <-> walk and person <-> rider; sky is confused with nobody; the moon is not there
COUNTS = np.diag([80, 60, 70, 50, 90, 0])
COUNTS[0, 1], COUNTS[1, 0], COUNTS[2, 3], COUNTS[3, 2], COUNTS[3, 0] = 20, 40, 30, 49, 1


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_text("\n".join([",".join(NAMES), *(",".join(map(str, row)) for row in COUNTS.tolist())]))
    return path


def find(matrix, **settings):
    grouping.find_groups(matrix, **{"classes": None, "output": matrix.parent / "out", **settings})
    return matrix.parent / "out"


def test_groups_and_weights(matrix, capsys):
    output = find(matrix)
    printed = capsys.readouterr().out
    assert "group 1: person, rider\n" in printed and "group 2: road, walk\n" in printed
    assert "rider -> person 49.0 %" in printed and "walk -> road 40.0 %" in printed
    assert "weights 0, which train nothing: moon" in printed
    assert "log(1 - q_j)" in printed and "erratum" in printed
    arrays = read_npz(output / "weights.npz")
    np.testing.assert_allclose(arrays["subnet0_weights"][3], [0.01, 0, 0.49, 0.5, 0, 0])
    # others (road, walk, sky: 200 + 90 pixels), person, rider
    np.testing.assert_allclose(arrays["subnet1_weights"], [[1, 0, 0], [0, 0.7, 0.3], [0.01, 0.49, 0.5]])
    assert arrays["subnet1_outputs"].tolist() == ["others", "person", "rider"]
    assert arrays["subnet1_mapping"].tolist() == [0, 0, 1, 2, 0, 0]
    # others (person, rider, sky: 290 pixels), road, walk
    np.testing.assert_allclose(arrays["subnet2_weights"], [[289 / 290, 1 / 290, 0], [0, 0.8, 0.2], [0, 0.4, 0.6]])
    with open(output / "weights-subnet1.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["truth", "others", "person", "rider"] and rows[2][0] == "person"
    assert [[float(cell) for cell in row[1:]] for row in rows[1:]] == arrays["subnet1_weights"].tolist()
    assert (output / "groups.png").stat().st_size > 1000


def test_groups_file_is_a_part_of_a_config(matrix):
    tree = yaml.safe_load((find(matrix) / "groups.yaml").read_text(encoding="utf-8"))
    assert tree == {"groups": {"source": [["person", "rider"], ["road", "walk"]]}}
    path = matrix.parent / "own.yaml"
    path.write_text(yaml.safe_dump({"_base_": "out/groups.yaml", "data": {"name": "camvid"}}))
    assert read_tree(path)["groups"] == tree["groups"]
    text = (matrix.parent / "out" / "groups.yaml").read_text(encoding="utf-8")
    assert "# rider -> person 49.0 %" in text


def test_reordered_classes_give_the_same_groups_and_weights(matrix, tmp_path):
    first = read_npz(find(matrix) / "weights.npz")
    order = [3, 1, 5, 2, 0, 4]
    names, counts = [NAMES[i] for i in order], COUNTS[np.ix_(order, order)]
    matrix.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in counts.tolist())]))
    second = read_npz(find(matrix, output=tmp_path / "other") / "weights.npz")
    for subnet in ("subnet0", "subnet1", "subnet2"):
        before, after = (list(arrays[f"{subnet}_outputs"]) for arrays in (first, second))
        place = [after.index(name) for name in before]
        np.testing.assert_array_equal(first[f"{subnet}_weights"], second[f"{subnet}_weights"][np.ix_(place, place)])


def test_groups_by_name(matrix, capsys):
    output = find(matrix, source="[[sky, person, road]]")
    assert "group 1: road, person, sky\n    chosen by name" in capsys.readouterr().out
    assert read_npz(output / "weights.npz")["subnet1_outputs"].tolist() == ["others", "road", "person", "sky"]
    for source, message in (
        ("[[sky, raod]]", "'raod'; did you mean 'road'"),
        ("[sky, road]", "wants auto, paper, or lists"),
        ("[[", "wants auto, paper, or lists"),
        ("[[[sky], road]]", "unknown class"),
        ("paper", "--classes cityscapes"),
    ):
        with pytest.raises(ConfsegError, match=message) as error:
            find(matrix, source=source)
        assert "\n" not in str(error.value)


def test_fewer_groups_than_last_time_leave_no_weights_behind(matrix, capsys):
    output = find(matrix)
    assert (output / "weights-subnet2.csv").exists()
    find(matrix, threshold=1.0)
    assert "no group" in capsys.readouterr().out
    assert sorted(path.name for path in output.glob("weights*")) == ["weights-subnet0.csv", "weights.npz"]
    assert yaml.safe_load((output / "groups.yaml").read_text()) == {"groups": {"source": []}}


def test_the_paper_s_groups(tmp_path, capsys):
    path = tmp_path / "matrix.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in (np.eye(21, dtype=int) * 9 + 1).tolist()))
    find(path, classes="voc", source="paper")
    assert "background, chair, dining table, potted plant, sofa" in capsys.readouterr().out


def test_refused(matrix):
    with pytest.raises(ConfsegError, match="threshold"):
        find(matrix, threshold=2.0)
    with pytest.raises(ConfsegError, match="19 names|6 classes"):
        matrix.write_text("\n".join(",".join(map(str, row)) for row in COUNTS.tolist()))
        find(matrix, classes="cityscapes")
    matrix.write_text("a,b\n0,0\n0,0\n")
    with pytest.raises(ConfsegError, match="all counts are 0"):
        find(matrix)
    assert not (matrix.parent / "out").exists()
