"""What the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_snippet_runs(tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    check = "\nassert scores.shape == (8, 4, 32, 32) and value.shape == (8,)"
    check += "\nassert sorted(g.classes for g in groups) == [(0, 1), (2, 3)]\n"
    (tmp_path / "snippet.py").write_text(snippet + check)
    done = subprocess.run([sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "road" in done.stdout and "rider" in done.stdout


def test_the_files_it_names_exist():
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\(([\w./]+)\)", README)
    links += re.findall(r"((?:tools|experiments|gluon_confseg)/[\w./-]*\w)(?![\w*[-])", README)
    assert len(links) > 4
    for link in links:
        assert (root / link.rstrip("/")).exists(), link
