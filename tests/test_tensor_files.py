"""Arrays from Gluon, safetensors and torch files: types, layouts, versions."""

import numpy as np
import pytest
from weights_files import Tensor, gluon_file, opcodes, params, pth, raw, record, write

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.tensor_files import read_tensors


def test_views_of_a_storage(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    value = {
        "transposed": Tensor("0", (6, 4), (1, 6)),
        "slice": Tensor("0", (2, 3), (8, 2), 5),
        "channels last": Tensor("0", (1, 4, 2, 3), (24, 1, 12, 4)),
        "scalar": Tensor("0", (), (), 23),
        "empty": Tensor("0", (0,), (1,)),
    }
    found = read_tensors(write(tmp_path, pth(value, {"0": raw(numbers)}, root="name of the file")))
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(4, 6).T)
    np.testing.assert_array_equal(found["slice"], [[5, 7, 9], [13, 15, 17]])
    np.testing.assert_array_equal(found["channels last"], numbers.reshape(1, 2, 3, 4).transpose(0, 3, 1, 2))
    assert found["scalar"] == 23 and found["empty"].size == 0
    assert not any(array.flags.writeable for name, array in found.items() if name != "empty")


def test_the_memo_and_a_state_dicts_metadata(tmp_path):
    # {"a": tensor, "b": the same tensor}, with torch's _metadata set by BUILD
    value = b"ccollections\nOrderedDict\n)R(" + opcodes("a") + opcodes(Tensor("0", (2,), (1,))) + b"q\x05"
    value += opcodes("b") + b"h\x05u}" + opcodes("_metadata") + opcodes({"": {"version": 1}}) + b"sb"
    found = read_tensors(write(tmp_path, pth(value, {"0": raw(np.array([1, 2], np.float32))})))
    assert {name: array.tolist() for name, array in found.items()} == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"])
def test_gluon_types(tmp_path, dtype):
    array = np.arange(6).reshape(1, 2, 3).astype(dtype)
    found = read_tensors(gluon_file(tmp_path / "a.params", {"ä.b": array, "c": array[0]}))
    assert list(found) == ["ä.b", "c"] and found["c"].dtype == dtype
    np.testing.assert_array_equal(found["ä.b"], array)
    np.testing.assert_array_equal(found["c"], array[0])


@pytest.mark.parametrize("start, head", [("<I", ()), ("<Ii", (0xF993FAC8,)), ("<Iii", (0xF993FAC9, 0))])
def test_every_version_of_params(tmp_path, start, head):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write(tmp_path, params(record((2, 3), raw(array), start=start, head=head)))
    np.testing.assert_array_equal(read_tensors(path)["a"], array)
    np.testing.assert_array_equal(mx.nd.load(str(path))["a"].asnumpy(), array)  # so the file is one


def test_entries_that_are_no_tensors_are_logged(tmp_path, caplog):
    path = write(tmp_path, pth({"a": Tensor("0", (1,), (1,)), "b": 3}, {"0": raw(np.ones(1, np.float32))}))
    assert list(read_tensors(path)) == ["a"]
    assert caplog.messages == [f"{path}: not tensors, not used: b"]


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfsegError) as caught:
            read_tensors(path)
        assert str(caught.value) == f"weights file {path} does not exist"
