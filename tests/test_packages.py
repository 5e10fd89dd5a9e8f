"""packages.py: bounds as pip takes them, whatever setuptools wrote."""

import pytest

from gluon_confseg import packages


@pytest.mark.parametrize("line", ["numpy<2,>=1.20", "numpy <2,>=1.20", 'numpy <2,>=1.20 ; extra == "cpu"'])
def test_bounds_are_quoted_without_spaces(monkeypatch, line):
    monkeypatch.setattr(packages, "requirements", lambda: ["numpydoc <1", line, "pandas>=2"])
    assert packages.bounded("numpy") == "'numpy<2,>=1.20'"
    assert packages.bounded("scipy") == "'scipy'"
