"""The locks of requirements/ hold what setup.py declares, on every Python, with hashes; how a difference is told."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {"cpu": ("cpu",), "cpu-test": ("cpu", "test")}  # file -> the extras of setup.py that it is for
MEND = "run tools/lock.sh"

sys.path.append(str(ROOT / "tools"))
import lock_differences  # noqa: E402


def environment(minor):
    return {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }


@pytest.fixture(scope="module")
def declared():
    """The arguments of setup.py's setup()."""
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        patch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def text(name):
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("minor", range(8, 14))
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_setup_py(declared, name, minor):
    pins = lock_differences.locked(text(name), environment(minor))
    extras = [each for extra in LOCKS[name] for each in declared["extras_require"][extra]]
    for requirement in map(Requirement, [*declared["install_requires"], *extras]):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin and requirement.specifier.contains(pin), f"{requirement} is not in requirements/{name}.txt: {MEND}"


@pytest.mark.parametrize("minor", range(8, 14))
def test_tests_are_of_the_versions_that_are_used(minor):
    used, tested = (lock_differences.locked(text(name), environment(minor)) for name in ("cpu", "cpu-test"))
    assert used.items() <= tested.items(), MEND
    (opencv,) = lock_differences.locked(text("opencv-headless"), environment(minor)).items()
    assert opencv == ("opencv-python-headless", used["opencv-python"]), MEND


@pytest.mark.parametrize("name", [*LOCKS, "opencv-headless"])
def test_every_version_has_hashes_and_no_place_is_named(name):
    pins = re.split(r"\n(?=\S)", text(name).split("tools/lock.sh\n")[1].rstrip())
    assert len(pins) == len([line for line in text(name).splitlines() if "==" in line.split(";")[0]])
    assert all(re.fullmatch(r"\S+==\S+( ; [^\n]*)?( \\\n    --hash=sha256:[0-9a-f]{64})+", pin) for pin in pins)
    assert "://" not in text(name)


def test_differences_are_told_by_name():
    pins = lock_differences.locked(
        "# head\na==1 ; python_version < '3' \\\n    --hash=sha256:0\n"
        "A_b==2 \\\n    --hash=sha256:1\n    --hash=sha256:2\n"
        "c==3 ; python_version >= '3' \\\n    --hash=sha256:3\n"
    )
    assert pins == {"a-b": "2", "c": "3"}
    assert list(lock_differences.differences(pins, {"a-b": "2.1", "d": "4"})) == [
        "a-b: 2 -> 2.1",
        "c: 3 -> not installed",
        "d: not in the lock -> 4",
    ]
