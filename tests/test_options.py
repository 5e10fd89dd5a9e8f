"""Texts of options: what is understood, and that the refusal names the option."""

import pytest

from gluon_confseg.errors import ConfsegError
from gluon_confseg.options import parse_scales, parse_size


def test_sizes():
    assert parse_size("512x1024") == (512, 1024)
    assert parse_size("32X48", "--window", 32) == (32, 48)
    for wrong in ("512", "512x", "0x4", "-1x4", "axb", "1x2x3", ""):
        with pytest.raises(ConfsegError, match=f"--size {wrong}: .*--size 512x1024"):
            parse_size(wrong)
    with pytest.raises(ConfsegError, match="--window 31x64: wants at least 32 pixels a side"):
        parse_size("31x64", "--window", 32)


def test_scales():
    assert parse_scales("0.75,1,1.25") == (0.75, 1.0, 1.25)
    for wrong in ("", "0", "1,x", "nan", "inf", "-1", "1,1.0", "1e9", "1,"):
        with pytest.raises(ConfsegError, match="--scales .*0.75,1,1.25"):
            parse_scales(wrong)
