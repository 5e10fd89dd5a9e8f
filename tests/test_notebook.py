"""The notebook of the paper's tables runs from top to bottom, on the committed results and on a run."""

import json
from pathlib import Path

import pytest

from gluon_confseg import results, seeds

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
nbclient = pytest.importorskip("nbclient")


def executed(monkeypatch, tmp_path, runs=None):
    """All text and the number of pictures that the notebook shows."""
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("CONFSEG_RUNS", raising=False)
    if runs:
        monkeypatch.setenv("CONFSEG_RUNS", ":".join(map(str, runs)))
    notebook = nbformat.read(str(EXPERIMENTS / "reproduce_tables.ipynb"), as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXPERIMENTS)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output.get("data", {}) for output in outputs]
    text = "\n".join(output.get("text", "") for output in outputs)
    text += "\n".join(each.get("text/markdown", "") for each in data)
    return text, sum("image/png" in each for each in data)


def test_it_holds_no_output_and_no_training():
    tree = json.loads((EXPERIMENTS / "reproduce_tables.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in tree["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] for cell in code)
    assert not any(word in "".join(cell["source"]) for cell in code for word in ("mxnet", "train", "75.55"))


def test_committed_results(monkeypatch, tmp_path):
    files = sorted((EXPERIMENTS / "results").glob("camvid-seed*.json"))
    text, pictures = executed(monkeypatch, tmp_path, files)
    assert all(f"Table {number}" in text for number in range(1, 6))
    # nobody has run the paper's experiments: its cells say so, beside the printed values
    assert "| subnets, CE             |   75.55 |" in text and text.count("not run") > 9
    baseline = seeds.spread([results.read(file).baseline.miou for file in files])
    assert f"camvid: camvid val, small, 11 cells, {len(files)} seeds" in text and baseline in text
    assert pictures == 3 and "Figures 8 and 9 need the pictures of a run's folder" in text


def test_a_run(monkeypatch, tmp_path, run):
    text, pictures = executed(monkeypatch, tmp_path, [run])
    assert "built-in cityscapes images, small, 11 cells, 1 seed" in text
    assert pictures == 4 and "need the pictures" not in text
