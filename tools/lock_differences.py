"""Which packages of this environment are not those of a lock: python tools/lock_differences.py requirements/FILE.txt"""

import sys
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def locked(text: str, environment: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """Name -> version of the pins of a lock file that hold in an environment (default: this one) of PEP 508 markers."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith(("#", " ")):
            pin = Requirement(line.rstrip(" \\"))
            if pin.marker is None or pin.marker.evaluate(dict(environment or {})):
                (version,) = pin.specifier
                found[canonicalize_name(pin.name)] = version.version
    return found


def differences(pins: Mapping[str, str], installed: Mapping[str, str]) -> Iterator[str]:
    """A line per package whose version differs, or that only one of the two has."""
    for name in sorted({*pins, *installed}):
        if pins.get(name) != installed.get(name):
            yield f"{name}: {pins.get(name, 'not in the lock')} -> {installed.get(name, 'not installed')}"


def main() -> None:
    installed = {canonicalize_name(each.metadata["Name"]): each.version for each in metadata.distributions()}
    for own in ("gluon-confseg", "pip"):
        installed.pop(own, None)
    lines = list(differences(locked(Path(sys.argv[1]).read_text(encoding="utf-8")), installed))
    print(f"packages that are not those of {sys.argv[1]} (locked -> here):" if lines else f"as in {sys.argv[1]}")
    print("".join(f"  {line}\n" for line in lines), end="")


if __name__ == "__main__":
    main()
