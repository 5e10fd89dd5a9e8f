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
        ("label_map.py", ["--size", "32x64", "--repeats", "1"], "times as fast"),
        (
            "heads.py",
            ["--crop", "32x32", "--batch", "1", "--channels", "8", "--repeats", "1"],
            "times as fast as one pass",
        ),
        ("start_up.py", ["--repeats", "1"], "no MXNet"),
    ],
)
def test_the_script_runs(monkeypatch, script, options, said):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    main = runpy.run_path(str(BENCHMARKS / script))["main"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0 and said in result.output, result.output
    assert "nan" not in result.output and (script != "start_up.py" or "imports MXNet" not in result.output)
