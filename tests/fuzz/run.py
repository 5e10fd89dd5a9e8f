"""Coverage-guided fuzzing of one reader: python tests/fuzz/run.py TARGET [libFuzzer options]; see README.md."""

import sys
import tempfile
from pathlib import Path

import atheris

READERS = ["gluon_confseg", "yaml", "json", "zipfile", "numpy.lib.format", "PIL", "csv", "pickletools"]
with atheris.instrument_imports(include=READERS):
    from targets import TARGETS, attempt


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: run.py TARGET [libFuzzer options]; targets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as scratch:
        corpus, folder = Path(scratch, "corpus"), Path(scratch, "read")
        corpus.mkdir()
        folder.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        options = ["-rss_limit_mb=1024", "-timeout=20", *sys.argv[2:]]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: attempt(target, data, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
