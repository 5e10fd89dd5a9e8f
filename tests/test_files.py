"""Files are complete or absent."""

import os
import stat

import pytest

from gluon_confseg import files
from gluon_confseg.errors import ConfsegError


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_file_keeps_the_suffix_and_the_result_is_readable_by_others(tmp_path):
    umask = os.umask(0o022)
    try:
        with files.atomic_path(tmp_path / "sub" / "a.png") as temporary:
            assert temporary.suffix == ".png"
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "sub" / "a.png").stat().st_mode) == 0o644


def test_refusals_of_the_file_system_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfsegError, match="cannot write .*file/a.txt"):
        files.write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(ConfsegError, match="cannot read .*none.json"):
        files.read_json(tmp_path / "none.json")


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5, None]})
    assert files.read_json(path) == {"a": [1, 2.5, None]}
    path.write_text(path.read_text()[:-4])
    with pytest.raises(ConfsegError, match="a.json is not valid JSON"):
        files.read_json(path)
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))


def test_sha256_of_known_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected


def test_a_folder_is_whole_or_absent(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "a") as temporary:
        (temporary / "half").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    umask = os.umask(0o022)
    try:
        with files.atomic_folder(tmp_path / "sub" / "a") as temporary:
            (temporary / "whole").write_text("")
            assert temporary.parent == tmp_path / "sub"
    finally:
        os.umask(umask)
    assert [path.name for path in (tmp_path / "sub" / "a").iterdir()] == ["whole"]
    assert stat.S_IMODE((tmp_path / "sub" / "a").stat().st_mode) == 0o755


def test_a_folder_does_not_replace_one_that_holds_something(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("")
    with pytest.raises(ConfsegError, match="cannot write the pictures to .*a: .*not empty; free space"):
        with files.atomic_folder(tmp_path / "a", "the pictures"):
            pass
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["mine"]
