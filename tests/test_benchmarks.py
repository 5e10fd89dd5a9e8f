"""The benchmark scripts run, on sizes that take no time; what they measure is not tested."""

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).resolve().parents[1] / "tools" / "benchmarks"


@pytest.mark.parametrize(
    "script, options, said",
    [
        ("loss.py", ["--shape", "1x5x16x16", "--repeats", "1"], "memory of the paper's loss over Gluon's"),
        ("confusion_update.py", ["--size", "32x64", "--repeats", "1"], "without its arg max the metric takes"),
        ("upsample.py", ["--shape", "1x3x2x3", "--factor", "2", "--repeats", "1"], "the deconvolution takes"),
        ("convolutions.py", ["small", "--crop", "32x32", "--repeats", "1"], "| convolutions"),
        ("label_map.py", ["--size", "32x64", "--repeats", "1"], "times as fast"),
        ("training_sample.py", ["--size", "64x128", "--crop", "32", "--repeats", "1"], "in memory: "),
        (
            "heads.py",
            ["--crop", "32x32", "--batch", "1", "--channels", "8", "--repeats", "1"],
            "times as fast as one pass",
        ),
        ("start_up.py", ["--repeats", "1"], "no MXNet"),
        (
            "evaluation.py",
            ["camvid", "64x96", "--images", "2", "--repeats", "1", "--cell", "subnet0_ce"],
            "peak memory: ",
        ),
        ("growth.py", ["--factor", "0.0625", "--repeats", "1", "--output", "."], "images (peak memory)"),
        ("int8.py", ["small", "32x64", "--repeats", "1"], "fused INT8 takes"),
    ],
)
def test_the_script_runs(monkeypatch, tmp_path, script, options, said):
    monkeypatch.chdir(tmp_path)  # some write files
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    main = runpy.run_path(str(BENCHMARKS / script))["main"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0 and said in result.output, result.output
    assert "nan" not in result.output and (script != "start_up.py" or "imports MXNet" not in result.output)


def test_the_comparison_with_pytorch_says_what_it_needs(capfd, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    main = runpy.run_path(str(BENCHMARKS / "pytorch.py"))["main"]
    result = CliRunner().invoke(main, ["--torch", "no-such-python"])
    assert result.exit_code == 2
    assert "no-such-python has no PyTorch to compare with: python -m venv" in result.output + capfd.readouterr().err


def test_our_side_of_the_comparison_has_the_parameters_of_pytorchs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step, trained = runpy.run_path(str(BENCHMARKS / "pytorch.py"))["our_step"]("small")
    step()
    assert trained == 1139203  # what pytorch_step.py prints
