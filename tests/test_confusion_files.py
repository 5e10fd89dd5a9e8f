"""Confusion matrices in files: what is written is read, what others write too, what is no matrix is refused by line."""

import json

import numpy as np
import pytest

from gluon_confseg import confusion_files
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.files import write_npz

COUNTS = [[5, 1, 0], [2**53 + 1, 7, 3], [0, 0, 9]]
NAMES = ["road", 'side "walk", wet', "Straße"]


def text(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "matrix.csv"
    path.write_bytes(content.encode(encoding))
    return path


def test_csv_and_npz_of_our_own(tmp_path):
    confusion_files.write_matrix(tmp_path / "m.csv", np.array(COUNTS), NAMES)
    confusion_files.save(tmp_path / "m.npz", ConfusionMatrix.from_counts(COUNTS), NAMES, images="3")
    for file in ("m.csv", "m.npz"):
        matrix, names = confusion_files.read(tmp_path / file)
        assert matrix.counts.tolist() == COUNTS and names == NAMES
    loaded = ConfusionMatrix.load(tmp_path / "m.npz")
    assert loaded.counts.tolist() == COUNTS and loaded.metadata["images"] == "3"


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,4\n",
        "a;b\r\n1;2\r\n3;4\r\n\r\n",
        "a\tb\n1\t2\n3\t4",
        ",a,b\na,1,2\nb,3,4\n",  # pandas
        "\ufefftruth \\ prediction, a, b\na, 1, 2\nb, 3, 4\n",
        "a,b\na,1,2\nb,3,4\n",  # R
        "a,b\n1.0,2e0\n3.000000000000000000e+00,4\n",  # numpy.savetxt
    ],
)
def test_csv_of_others(tmp_path, content):
    matrix, names = confusion_files.read(text(tmp_path, content))
    assert names == ["a", "b"] and matrix.counts.tolist() == [[1, 2], [3, 4]]


def test_numbers_alone_need_names(tmp_path):
    path = text(tmp_path, "1,2\n3,4\n")
    with pytest.raises(ConfsegError, match="does not name its 2 classes; give --classes"):
        confusion_files.read(path)
    matrix, names = confusion_files.read(path, ("a", "b"))
    assert names == ["a", "b"] and matrix.counts.tolist() == [[1, 2], [3, 4]]


def test_numbers_as_names(tmp_path):
    assert confusion_files.read(text(tmp_path, "0,1\n5,6\n7,8\n"))[1] == ["0", "1"]


def test_confusion_file_of_a_run(tmp_path):
    matrix = ConfusionMatrix.from_counts(np.eye(11, dtype=int))
    matrix.save(tmp_path / "confusion.npz", dataset="camvid")
    assert confusion_files.read(tmp_path / "confusion.npz")[1][0] == "Sky"
    matrix.save(tmp_path / "confusion.npz", dataset="voc")  # of other classes than VOC's
    with pytest.raises(ConfsegError, match="give --classes"):
        confusion_files.read(tmp_path / "confusion.npz")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty"),
        ("a,b\n1,2\n3\n", "line 3: 1 counts for 2 classes"),
        ("a,b\n1\n3,4\n", "line 2: 1 counts for 2 classes"),
        ("a,b\n1,2,3\n3,4\n", "line 2: the row of '1' stands where the header has 'a'"),
        (",a,b\na,1\nb,3,4\n", "line 2: 1 counts for 2 classes"),
        (",a,b\nb,1,2\na,3,4\n", "line 2: the row of 'b' stands where the header has 'a'"),
        ("a,b,c\n1,2,3\n", "3 names in the header but 1 rows"),
        ("a,b,c\n1,2,3\n4,5,6\n", "is square|stands where"),
        ("a,b\n1,-2\n3,4\n", "line 2: '-2' is not a number of pixels"),
        ("a,b\n0.5,0.5\n3,4\n", "line 2: '0.5' .* normalised"),
        ("a,b\n1,nan\n3,4\n", "line 2: 'nan'"),
        ("a,b\n1,inf\n3,4\n", "line 2: 'inf'"),
        ("a,b\n1,many\n3,4\n", "line 2: 'many'"),
        ("a,b\n1,\n3,4\n", "line 2: ''"),
        (f"a,b\n1,{2**62}\n{2**62},4\n", "2\\^63"),
        ("a,b\n1,1e300\n3,4\n", "2\\^63"),
        (f"a,b\n1,{'9' * 5000}\n3,4\n", "2\\^63|is not a number of pixels"),
        ("a,a\n1,2\n3,4\n", "'a' is there twice"),
        ("a,\n1,2\n3,4\n", "class name '' is not printable"),
        ('a,"b\nc"\n1,2\n3,4\n', "not printable"),
        ("a,b\x1b[31m\n1,2\n3,4\n", "not printable"),
        ('a,"b\n1,2\n', "is no CSV text"),
        (f"a,b\n1,{'x' * 200000}\n3,4\n", "is no CSV text"),
    ],
)
def test_csv_that_is_none(tmp_path, content, message):
    path = text(tmp_path, content)
    with pytest.raises(ConfsegError, match=message) as error:
        confusion_files.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_files_that_are_none(tmp_path):
    def refused(name, message, names=None):
        with pytest.raises(ConfsegError, match=message):
            confusion_files.read(tmp_path / name, names)

    refused("none.csv", "cannot read")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    refused("binary.csv", "no CSV text")
    (tmp_path / "large.csv").write_bytes(b"1," * (1 << 23) + b"1")
    refused("large.csv", "too many")
    (tmp_path / "text.npz").write_text("a,b")
    refused("text.npz", "not a whole .npz")
    np.savez(tmp_path / "pickled.npz", counts=np.array([{}], object), description=np.array("{}"))
    refused("pickled.npz", "not a whole .npz")
    np.savez(tmp_path / "other.npz", counts=np.eye(2))
    refused("other.npz", "not a confusion matrix")
    description = {"ignore_label": 255, "metadata": {"classes": "[1, 2]"}}
    for huge in (np.full((2, 2), 1e300), np.full((2, 2), 2**63, np.uint64)):
        write_npz(tmp_path / "huge.npz", {"counts": huge, "description": np.array(json.dumps(description))})
        refused("huge.npz", "not a confusion matrix")
    write_npz(tmp_path / "names.npz", {"counts": np.eye(2), "description": np.array(json.dumps(description))})
    refused("names.npz", "names of its classes are damaged")
    confusion_files.save(tmp_path / "ok.npz", ConfusionMatrix.from_counts(np.eye(2)), ["a", "b"])
    refused("ok.npz", r"classes \(a, b\) are not those of --classes \(b, a\)", ["b", "a"])
