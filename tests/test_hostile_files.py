"""Files of any origin: read, or refused in one line; not executed, nothing allocated that a header merely claims."""

import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from targets import TARGETS, attempt

from gluon_confseg import config, confusion_files, files, npz_sizes
from gluon_confseg.data.base import read_image
from gluon_confseg.errors import ConfsegError, one_line
from gluon_confseg.labels import LabelSet
from gluon_confseg.yaml_files import parse_yaml

HERE = Path(__file__).resolve().parent

CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**12), st.integers(0, 3), st.binary(max_size=6) | st.sampled_from([b"\xff" * 8, b"9" * 40])
    ),
    max_size=5,
)


def changed(data, changes):
    """Some bytes replaced by others: fewer, as many or more."""
    for position, length, new in changes:
        position %= len(data) + 1
        data = data[:position] + new + data[position + length :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_read(tmp_path, name):
    target = TARGETS[name]
    path = tmp_path / f"file{target.suffix}"
    path.write_bytes(target.wrap(target.seeds[0]))
    if name == "dataset":  # its folders are not there
        with pytest.raises(ConfsegError, match="looked in .* for photos/train and masks/train, not there"):
            target.read(path)
    else:
        target.read(path)


@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, about the damage
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 8), changes=CHANGES)
def test_a_file_changed_anywhere_is_read_or_refused(tmp_path_factory, name, number, changes):
    target = TARGETS[name]
    attempt(target, changed(target.seeds[number % len(target.seeds)], changes), tmp_path_factory.getbasetemp())


YAML_FINDINGS = {
    "a date that is none": "name: 2026-13-45",
    "a number without digits": "name: !!int ''",
    "text as a truth value": "name: !!bool maybe",
    "text as a timestamp": "name: !!timestamp soon",
    "an endless alias": "name: &a [*a]",
    "an alias as its own key": "&a ? *a : 1",
    "aliases for 2^60 values": "a0: &a0 [x, x]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
    "merged aliases": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)),
    "a thousand levels": "name: " + "[" * 1000 + "]" * 1000,
    "a hundred levels": "name: " + "[" * 100 + "]" * 100,
    "code": "name: !!python/object/apply:os.system [exit]",
    "half a character": 'name: "\\ud800"',
    "a base with NUL": '_base_: "\\0"',
    "a base that is a device": "_base_: /dev/zero",
    "a base with a long name": f"_base_: {'a' * 300}",
    "a base that is a folder": "_base_: .",
    "too long": "name: x\n#" + "x" * (1 << 20),
    "no text": "name: \x00",
}


@pytest.mark.parametrize("what", YAML_FINDINGS)
def test_yaml_that_was_a_traceback_or_endless(tmp_path, what):
    path = tmp_path / "file.yaml"
    path.write_text(YAML_FINDINGS[what])
    for name in ("config", "classes"):  # with _base_, and without
        with pytest.raises(ConfsegError) as caught:
            TARGETS[name].read(path)
        assert len(str(caught.value)) < 1000


def test_yaml_of_an_option_is_refused_like_a_file():
    for text in ("2026-13-45", "[" * 1000, "&a [*a]"):
        with pytest.raises(ConfsegError, match="not valid YAML"):
            config.load(HERE.parent / "experiments/configs/camvid.yaml", [f"name={text}"])


def test_aliases_that_stand_for_little_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert parse_yaml("") is None


JSON_FINDINGS = {
    "a hundred thousand levels": "[" * 100000,
    "a hundred levels": "[" * 100 + "]" * 100,
    "half a character": '{"name": "\\ud800"}',
    "half a character as a key": '{"\\ud800": 1}',
    "a number of 5000 digits": "9" * 5000,
    "another encoding": b"\xff\xfe{}",
    "no number": '{"seconds": NaN}',
    "a number that is not finite": '{"seconds": -Infinity}',
    "a number that float64 cannot hold": '{"seconds": 1e999}',
    "nothing": "",
}


@pytest.mark.parametrize("what", JSON_FINDINGS)
def test_json_that_was_a_traceback(tmp_path, what):
    text = JSON_FINDINGS[what]
    for name in ("json", "results", "labels", "manifest", "description"):
        attempt(TARGETS[name], text if isinstance(text, bytes) else text.encode(), tmp_path)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", '{"a": 1e999}'])
def test_json_numbers_that_could_not_be_written_again(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfsegError, match="not valid JSON .*is no number that can be written"):
        files.read_json(tmp_path / "a.json")


NAMES = ["../../x", "/etc/x", "a\0b", "a\nb", "x" * 300, "-rf", "", ".", "..", "a/b", "~", "$(id)", "a\x1b[31m"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_become_paths_do_not_lead_out_of_the_run(name):
    tree = config.to_tree(config.load(HERE.parent / "experiments/configs/camvid.yaml"))
    cell = dict(tree["cells"][1], key=name)
    for change in (
        {"name": name},
        {"losses": {name: {"kind": "focal"}}},
        {"shapes": {name: {}}},
        {"cells": [tree["cells"][0], cell]},
    ):
        with pytest.raises(ConfsegError, match="String should match pattern"):
            config.parse({**tree, **change, "comparisons": []}, "config.yaml")


def test_names_that_are_printed_are_one_line_of_text():
    for name in ("a\nb", "", "a\x1b[31m", "\ud800"):
        with pytest.raises(ConfsegError, match="not one line of printable text"):
            LabelSet("x", ("a", name), ((0, 0, 0), (1, 1, 1)), {0: 0})
        with pytest.raises(ConfsegError, match="not one line of printable text"):
            LabelSet(name, ("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0})
    assert one_line("Straße 東 a\tb\x1b[0m\n\ud800\0") == "Straße 東 a\\tb\\x1b[0m\\n\\ud800\\x00"


def test_a_file_of_a_long_name_is_written(tmp_path):
    for name in ("x" * 250 + ".png", "ä" * 120 + ".json"):
        files.write_text(tmp_path / name, "a")
        assert (tmp_path / name).read_text() == "a"
    with pytest.raises(ConfsegError, match="cannot write"):
        files.write_text(tmp_path / ("x" * 300), "a")


def npy(shape, dtype="<f4", data=b""):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def npz(path, member, **claims):
    """An archive of one array, whose entry claims other sizes than it has."""
    compression = claims.pop("compression", zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("counts.npy", member)
        for key, value in claims.items():
            setattr(archive.infolist()[0], key, value)
    return path


@pytest.mark.parametrize(
    "member, claims",
    [
        (npy((2**38,)), {}),
        (npy((2**20, 2**20), "<f8"), {"file_size": 2**31 - 2}),
        (npy((2**28,), "<f4"), {"file_size": 2**30 + 59}),
        (npy((-1,), data=bytes(4)), {}),
        (npy((2**62,), "|V0"), {}),
        (npy((1,), "|O", bytes(8)), {}),
        (npy((2,), data=bytes(4)), {}),
        (bytes(1 << 20), {"compression": zipfile.ZIP_DEFLATED}),
        (npy((1,), data=bytes(4)), {"compression": zipfile.ZIP_LZMA}),
        (npy((1,), data=bytes(4)), {"compression": zipfile.ZIP_BZIP2}),
        (b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b"{", {}),
        (b"\x93NUMPY\1\0" + struct.pack("<H", 5) + b"((((\n", {}),
        (b"\x93NUMPY\1\0" + struct.pack("<H", 11) + b'""\n  \xab\xff \xff\n\0', {}),
    ],
)
def test_npz_whose_headers_claim_too_much(tmp_path, member, claims):
    path = npz(tmp_path / "a.npz", member, **claims)
    for read in (files.read_npz, confusion_files.read):
        with pytest.raises(ConfsegError, match="not a whole .npz file"):
            read(path)


def test_an_npz_that_inflates_beyond_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_sizes, "_MAX_INFLATED", 4 << 20)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.npy", npy((1 << 20,), "|u1", bytes(1 << 20)))
    with pytest.raises(ConfsegError, match="not a whole .npz file"):
        files.read_npz(path)


def png(width, height, bits=8, color=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


MEMORY = """
import resource, sys
sys.path.append(sys.argv[1])
from targets import TARGETS
from gluon_confseg.errors import ConfsegError
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (192 << 20),) * 2)
for name in sys.argv[2:]:
    target, path = name.split(":", 1)
    try:
        TARGETS[target].read(Path(path))
    except ConfsegError as error:
        assert "MemoryError" not in str(error) + repr(error.__cause__), (name, error)
    else:
        raise AssertionError(name)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory by Linux' /proc")
def test_claims_of_gigabytes_are_refused_within_192_megabytes(tmp_path):
    """Nothing is caught that was allocated: with this limit an allocation of what is claimed is a MemoryError."""
    claims = {
        "npz": npy((2**31,), "|u1"),
        "image": png(2**31 - 1, 2**31 - 1),
        "label": png(16000, 16000),
        "label_map": png(13000, 13000),
        "safetensors": struct.pack("<Q", 2**40) + b"{" + bytes(100),
        "params": struct.pack("<3Q", 0x112, 0, 2**40)
        + struct.pack("<IiI2q2ii", 0xF993FAC9, 0, 2, 2**20, 2**20, 1, 0, 0),
        "mat": bytes(124) + b"\0\1IM" + struct.pack("<2I", 14, 2**31),
        "config": YAML_FINDINGS["aliases for 2^60 values"].encode(),
    }
    arguments = []
    for name, data in claims.items():
        path = tmp_path / f"{name}{TARGETS[name].suffix}"
        path.write_bytes(data)
        if name == "npz":
            npz(path, data, file_size=2**31 - 1)
        arguments.append(f"{name}:{path}")
    command = [sys.executable, "-c", MEMORY, str(HERE / "fuzz"), *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr


def test_pictures_whose_bytes_cannot_hold_their_pixels(tmp_path):
    path = tmp_path / "a.png"
    for width, height in ((5000, 5000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5)):
        path.write_bytes(png(width, height))
        with pytest.raises(ConfsegError, match="a.png: (cannot decode|its header claims)"):
            read_image(path)
    for mode in ("1", "L", "RGB"):  # what shrinks most
        Image.new(mode, (2000, 2000)).save(path, compress_level=9)
        assert np.array_equal(np.unique(read_image(path)), [0])
    Image.new("L", (2000, 2000)).save(tmp_path / "a.jpg", quality=1, progressive=True, optimize=True)
    assert read_image(tmp_path / "a.jpg").shape == (2000, 2000, 3)
