"""Weights files that are damaged or lie: refused in one line, with nothing run and nothing large allocated."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_files import Tensor, bfloat16, contiguous, opcodes, params, pth, raw, record, safetensors, write

from gluon_confseg.errors import ConfsegError
from gluon_confseg.tensor_files import read_tensors

CLAIM = "it claims more data than it has; fetch it again"
NO_KNOWN_FILE = "it is neither a .params nor a .safetensors nor a .pth file; fetch it again"
SHAPE = "it claims an array of impossible shape; fetch it again"
SIZE = "it has a size that is no whole number; fetch it again"


def cut_short(error):
    return f"it is damaged or cut short ({error}); fetch it again"


def refused(tmp_path, data):
    """The reason why a file with these bytes is refused: one line that names the file."""
    path = write(tmp_path, data)
    with pytest.raises(ConfsegError) as caught:
        read_tensors(path)
    start = f"{path} does not hold the weights of this network: "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    return str(caught.value)[len(start) :]


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", NO_KNOWN_FILE),
        (b"<!DOCTYPE html>", NO_KNOWN_FILE),
        (struct.pack("<3Q", 0x112, 0, 2**63), CLAIM),
        (params(record((2**31, 2**31), b"")), CLAIM),
        (params(record((2**62, 4), b"")), CLAIM),
        (params(record((-1,), b"")), SHAPE),
        (params(record((1,) * 40, b"1234")), SHAPE),
        (params(struct.pack("<I", 2**32 - 1)), SHAPE),
        (params(struct.pack("<Ii", 0xF993FAC9, 1)), "it holds sparse arrays; save them as dense ones"),
        (params(record((1,), b"1234", kind=99)), cut_short("KeyError")),
        (params(record((1,), b"1234"))[:-1], CLAIM),
        (
            struct.pack("<3Q", 0x112, 0, 1) + record((1,), b"1234") + struct.pack("<Q", 0),
            "its arrays have no names; save it by save_parameters of the network",
        ),
        (
            struct.pack("<3Q", 0x112, 0, 2) + 2 * record((1,), b"1234") + struct.pack("<QQcQc", 2, 1, b"a", 1, b"a"),
            "the name a is in it twice",
        ),
    ],
)
def test_params_that_lie(tmp_path, data, reason):
    assert refused(tmp_path, data) == reason


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def header(**entries):
    """A .safetensors file with these entries and four bytes of data."""
    return safetensors({}, json.dumps(entries)) + b"1234"


HOLES = "its tensors do not fill it from end to end; fetch it again"


@pytest.mark.parametrize(
    "data, reason",
    [
        (safetensors({}, length=2**63), CLAIM),
        (safetensors({}, '{"a": ' + "[" * 100000), cut_short("RecursionError")),
        (safetensors({}, '{"a": 1, "a": 2}'), "the name a is in it twice"),
        (safetensors({}, "{not json}"), cut_short("JSONDecodeError")),
        (header(a=[]), cut_short("TypeError")),
        (header(a={"dtype": "F32"}), cut_short("KeyError")),
        (header(a=entry()) + b"5678", HOLES),
        (header(a=entry())[:-1], HOLES),
        (header(a=entry(), b=entry()), HOLES),
        (header(a=entry(offsets=(-4, 4))), SIZE),
        (header(a=entry(offsets=(False, 4))), SIZE),
        (header(a=entry(shape=(1e300,))), SIZE),
        (header(a=entry(shape=(2**40,))), CLAIM),
        (header(a=entry("F16")), "the shape of a does not go with its length; fetch it again"),
        (header(a=entry("F8_E4M3", shape=(4,))), "a is of type that is not read; save it as F32"),
    ],
)
def test_safetensors_that_lie(tmp_path, data, reason):
    assert read_tensors(write(tmp_path, header(a=entry())))["a"].shape == (1,)  # the others differ from this one
    assert refused(tmp_path, data) == reason


ONLY = "; save the tensors alone, where torch is: torch.save(model.state_dict(), NEW)"
DAMAGED_PICKLE = "its pickle is damaged; fetch it again"


def four(*tensor, **options):
    """A .pth file of one tensor over a storage of four bytes."""
    return pth({"a": Tensor(*tensor)}, {"0": b"1234"}, **options)


@pytest.mark.parametrize(
    "data, reason",
    [
        (four("0", (2**40,), (1,)), CLAIM),
        (four("0", (2**40,), (0,)), CLAIM),
        (four("0", (1,), (1,), 1), CLAIM),
        (four("0", (2, 2), (1, 0)), CLAIM),
        (four("0", (-1,), (1,)), SIZE),
        (four("0", (1,), (-1,)), SIZE),
        (four("0", (1, 1), (1,)), SHAPE),
        (four("0", (1,) * 33, (1,) * 33), SHAPE),
        (four("../../etc/passwd", (1,), (1,)), cut_short("KeyError")),
        (four("0", (1,), (1,))[:-30], cut_short("BadZipFile")),
        (
            pth({"a": Tensor("0", (250000,), (1,))}, {"0": bytes(1000000)}, compression=zipfile.ZIP_DEFLATED),
            "its archive is compressed or claims more data than it has" + ONLY,
        ),
        (
            pth({}, more=[("other/data.pkl", b"")]),
            "it is a zip archive, but not torch's; if it was sent zipped, unpack it",
        ),
        (pth({(1, 2): 3}), "its pickle has keys that are not names" + ONLY),
        (pth(b"(" + opcodes("a") + b"K\1d"), "its pickle does more than hold tensors (DICT)" + ONLY),
        (pth({"a": 1, b"X\1\0\0\0a": 2}), "the name a is in it twice"),
        (pth([1, 2]), "it holds no state dict" + ONLY),
        (pth(b"K\1K\2"), cut_short("ValueError")),
        (pth(b"X\xff\xff\xff\x7fa"), cut_short("ValueError")),
        (pth(b"h\1"), cut_short("KeyError")),
        (pth(b"K\1\x86"), DAMAGED_PICKLE),
    ],
)
def test_pth_that_lies(tmp_path, data, reason):
    assert read_tensors(write(tmp_path, four("0", (1,), (1,))))["a"].shape == (1,)
    assert refused(tmp_path, data) == reason


def test_a_storage_that_many_tensors_name_is_read_once(tmp_path):
    value = {str(i): Tensor("0", (250000,), (1,)) for i in range(1000)}  # 1 GB, if each had its own
    found = read_tensors(write(tmp_path, pth(value, {"0": bytes(1000000)})))
    starts = {array.__array_interface__["data"][0] for array in found.values()}
    assert len(found) == 1000 and len(starts) == 1


def test_two_entries_of_an_archive_with_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = four("0", (1,), (1,), more=[("archive/data/0", b"5678")])
    assert refused(tmp_path, data) == "the name archive/data/0 is in it twice"


def test_a_damaged_storage_is_noticed(tmp_path):
    data = four("0", (1,), (1,))
    assert data.count(b"1234") == 1
    assert refused(tmp_path, data.replace(b"1234", b"1235")) == cut_short("BadZipFile")


def test_a_bare_pickle_says_how_to_convert_it(tmp_path):
    reason = refused(tmp_path, pickle.dumps({"a": 1}, protocol=2))
    assert reason.startswith("it is a bare pickle (torch before 1.6), which only running it would read; convert it")
    assert "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)" in reason


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def attacks(path):
    """Pickles that make the folder `path`, by every opcode that calls or imports, and why each is refused."""
    name = str(path)
    yield pickle.dumps(Runs(name), 2), f"its pickle asks for {os.mkdir.__module__}.mkdir, which is not run" + ONLY
    yield pickle.dumps(Runs(name), 4), "its pickle does more than hold tensors (FRAME)" + ONLY
    yield b"(V" + name.encode() + b"\nios\nmkdir\n.", "its pickle does more than hold tensors (UNICODE)" + ONLY
    yield b"(cos\nmkdir\n" + opcodes(name) + b"o.", "its pickle asks for os.mkdir, which is not run" + ONLY
    stack = opcodes("os") + opcodes("mkdir") + b"\x93" + opcodes((name,)) + b"R."
    yield b"\x80\x04" + stack, "its pickle does more than hold tensors (STACK_GLOBAL)" + ONLY


@pytest.mark.parametrize("number", range(5))
def test_nothing_in_a_pickle_is_run(tmp_path, number):
    target = tmp_path / "made by the pickle"
    attack, reason = list(attacks(target))[number]
    pickle.loads(attack)
    target.rmdir()  # so the attack works
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("archive/data.pkl", attack)
    assert refused(tmp_path, body.getvalue()) == reason
    assert not target.exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "value, reason",
    [
        (b"ccollections\nOrderedDict\n((K\1K\2ttR", "its pickle does more than hold tensors (REDUCE)" + ONLY),
        (b"ctorch\nFloatStorage\n)R", "its pickle does more than hold tensors (REDUCE)" + ONLY),
        (REBUILD + opcodes((1, 0, (1,), (1,))) + b"R", DAMAGED_PICKLE),
        (REBUILD + b")R", cut_short("ValueError")),
        (REBUILD + b"}b", DAMAGED_PICKLE),
        (opcodes(("storage", "FloatStorage", "0", "cpu", 1)) + b"Q", DAMAGED_PICKLE),
    ],
)
def test_known_names_are_not_called_with_what_they_do_not_take(tmp_path, value, reason):
    assert refused(tmp_path, pth({"a": value}, {"0": b"1234"})) == reason


def test_nested_sizes_are_not_printed(tmp_path):
    # a tuple of twice the tuple before, forty times: 2^40 numbers, if it were written out
    nested = b"K\1" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(40))
    value = REBUILD + b"(" + opcodes(("storage", b"ctorch\nFloatStorage\n", "0", "cpu", 1)) + b"QK\0("
    assert refused(tmp_path, pth({"a": value + nested + b"t(K\1ttR"}, {"0": b"1234"})) == SIZE


def test_a_deeply_nested_tuple_as_a_name(tmp_path):
    value = b"})" + b"\x85" * 1000000 + b"K\1s"  # hashing it would end the process
    assert refused(tmp_path, pth(value)) == "its pickle has keys that are not names" + ONLY


def small_files():
    """One whole file of each kind."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return (
        params(record((2, 3), raw(array), start="<Iii", head=(0xF993FAC9, 0))),
        safetensors({"a": ("F32", array), "b": ("BF16", bfloat16(array))}),
        pth({"a": contiguous(array, "0"), "b": 3, "c": [1.5, (None, True)]}, {"0": raw(array)}),
    )


every_kind = pytest.mark.parametrize("data", small_files(), ids=["params", "safetensors", "pth"])


@every_kind
def test_a_file_cut_anywhere_is_refused(tmp_path, data):
    assert "a" in read_tensors(write(tmp_path, data))
    for length in range(len(data)):
        refused(tmp_path, data[:length])


def read_or_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.getbasetemp(), data)
    try:
        assert all(isinstance(array, np.ndarray) for array in read_tensors(path).values())
    except ConfsegError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def changed(data, changes):
    result = bytearray(data)
    for position, new in changes:
        position %= len(data)
        result[position : position + len(new)] = new
    return bytes(result)


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
KNOWN_OPCODES = (
    *(bytes([byte]) for byte in b"()]}tuseabRQN\x85\x86\x87"),
    *(b"q\1", b"h\1", b"K\1", opcodes("a"), opcodes(Tensor("0", (2,), (1,)))),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", REBUILD),
)


@every_kind
@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_a_file_changed_anywhere_is_read_or_refused(tmp_path_factory, data, changes):
    read_or_refused(tmp_path_factory, changed(data, changes))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools, of a damaged string
@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_a_pickle_changed_anywhere_is_read_or_refused(tmp_path_factory, changes):
    # within the archive, where no checksum stands in front of the reader
    pickled = opcodes({"a": Tensor("0", (2, 3), (3, 1)), "b": {"c": [1.5, (None, True)]}})
    read_or_refused(tmp_path_factory, pth(changed(pickled, changes), {"0": bytes(24)}))


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(KNOWN_OPCODES), max_size=30))
def test_any_row_of_known_opcodes_is_read_or_refused(tmp_path_factory, parts):
    read_or_refused(tmp_path_factory, pth(b"".join(parts), {"0": bytes(24)}))
