"""Coverage-guided fuzzing: python tests/fuzz/run.py TARGET [libFuzzer options]; see README.md. "all": every reader."""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

READERS = ["gluon_confseg", "yaml", "json", "zipfile", "numpy.lib.format", "PIL", "csv", "pickletools"]
with atheris.instrument_imports(include=READERS):
    from targets import TARGETS, attempt


def main() -> None:
    """With "all", the first byte of an input chooses the target."""
    if len(sys.argv) < 2 or sys.argv[1] not in (*TARGETS, "all"):
        sys.exit(f"usage: run.py TARGET [libFuzzer options]; targets: {', '.join(TARGETS)}, all")
    chosen = list(TARGETS.values()) if sys.argv[1] == "all" else [TARGETS[sys.argv[1]]]
    prefixed = len(chosen) > 1
    with tempfile.TemporaryDirectory() as scratch:
        corpus, folder = Path(scratch, "corpus"), Path(scratch, "read")
        corpus.mkdir()
        folder.mkdir()
        for number, target in enumerate(chosen):
            for index, seed in enumerate(target.seeds):
                (corpus / f"{number}-{index}").write_bytes((bytes([number]) if prefixed else b"") + seed)

        def test(data: bytes) -> None:
            number = data[0] % len(chosen) if prefixed and data else 0
            attempt(chosen[number], data[1:] if prefixed else data, folder)

        logging.getLogger("gluon_confseg").addHandler(logging.NullHandler())  # a fall-back is no news here
        options = ["-rss_limit_mb=1024", "-timeout=20", *sys.argv[2:]]
        atheris.Setup([sys.argv[0], *options, str(corpus)], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
