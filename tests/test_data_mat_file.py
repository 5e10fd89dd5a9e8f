"""A field of a MATLAB 5 file: as scipy.io writes them, and as nobody should."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from gluon_confseg.data.mat_file import read_field
from gluon_confseg.data.voc import _read_mat
from gluon_confseg.errors import ConfsegError


def saved(path, variables, compress):
    scipy.io.savemat(path, variables, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, np.uint64])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4), (37, 53)])
def test_a_field_is_what_scipy_wrote(tmp_path, compress, dtype, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype) % 200
    others = {"Boundaries": np.eye(3), "Segmentation": values, "CategoriesPresent": np.array([[1, 15]])}
    path = saved(tmp_path / "a.mat", {"before": np.ones((3, 3)), "GTcls": others, "after": "text"}, compress)
    found = read_field(path, "GTcls", "Segmentation")
    assert np.array_equal(found, values) and found.dtype == dtype


def test_sparse_and_cell_fields_beside_it_are_passed_over(tmp_path):
    cells = np.empty(2, object)
    cells[:] = [scipy.sparse.csc_matrix(np.eye(4)), "text"]
    path = saved(tmp_path / "a.mat", {"GTcls": {"Boundaries": cells, "Segmentation": np.eye(4, dtype=np.uint8)}}, True)
    assert np.array_equal(_read_mat(path), np.eye(4)) and _read_mat(path).dtype == np.uint8


def test_big_endian(tmp_path):
    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def array(number, shape, name, body):
        parts = element(6, struct.pack(">II", number, 0)) + element(5, struct.pack(">2i", *shape)) + element(1, name)
        return element(14, parts + body)

    numbers = array(11, (2, 3), b"", element(4, struct.pack(">6H", 0, 1, 2, 3, 4, 500)))
    names = struct.pack(">HHi", 4, 5, 8) + element(1, b"ids".ljust(8, b"\0"))
    (tmp_path / "a.mat").write_bytes(bytes(124) + b"\1\0MI" + array(2, (1, 1), b"s", names + numbers))
    assert read_field(tmp_path / "a.mat", "s", "ids").tolist() == [[0, 2, 4], [1, 3, 500]]


@pytest.mark.parametrize(
    "variables, reason",
    [
        ({"other": np.eye(2)}, "it has no structure GTcls"),
        ({"GTcls": np.eye(2)}, "it has no structure GTcls"),
        ({"GTcls": {"Boundaries": np.eye(2)}}, "not in list"),
        ({"GTcls": {"Segmentation": "text"}}, "not a matrix of numbers"),
        ({"GTcls": {"Segmentation": np.ones((2, 2, 2))}}, "not a matrix of numbers"),
        ({"GTcls": {"Segmentation": np.array([[0.5]])}}, "no class ids"),
        ({"GTcls": {"Segmentation": np.array([[300]])}}, "no class ids"),
        ({"GTcls": {"Segmentation": np.array([[np.nan]])}}, "no class ids"),
    ],
)
def test_other_content_is_refused_in_one_line(tmp_path, variables, reason):
    with pytest.raises(ConfsegError, match=reason):
        _read_mat(saved(tmp_path / "a.mat", variables, False))
    with pytest.raises(ConfsegError, match="cannot read .*none.mat"):
        _read_mat(tmp_path / "none.mat")


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, compress):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    whole = saved(tmp_path / "a.mat", {"GTcls": {"Segmentation": values}}, compress).read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / "b.mat").write_bytes(whole[:length])
        try:
            assert np.array_equal(_read_mat(tmp_path / "b.mat"), values)  # only padding or a checksum is gone
        except ConfsegError:
            refused += 1
    assert refused >= len(whole) - 8


def test_what_inflates_a_thousandfold_is_read_to_a_bound(tmp_path):
    bomb = zlib.compress(struct.pack("<II", 14, 1 << 25) + bytes(1 << 25), 9)
    (tmp_path / "a.mat").write_bytes(bytes(124) + b"\0\1IM" + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(ConfsegError, match="cut short"):
        _read_mat(tmp_path / "a.mat")
