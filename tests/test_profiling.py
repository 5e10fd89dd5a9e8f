"""Where time goes is measured where asked, and nowhere else."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gluon_confseg import phases, profiling
from gluon_confseg.backend import mx

ROOT = Path(__file__).resolve().parents[1]


def convolve():
    layer = mx.gluon.nn.Conv2D(8, 3)
    layer.initialize()
    image = mx.nd.random.normal(shape=(1, 3, 64, 64))
    with mx.autograd.record():
        value = layer(image)
    value.backward()
    mx.nd.waitall()


def test_operators_by_kind_and_phases_by_name():
    found = {}
    with profiling.profiled(found):
        convolve()
        with phases.phase("sleep"):
            time.sleep(0.05)
    assert found["convolutions"] > 0 and found[profiling.OTHER] > 0 and found["updates"] == 0
    assert 0.05 <= found["sleep"] <= found["wall"] < 60


def test_nothing_is_measured_outside_and_nothing_is_left_for_the_next():
    with phases.phase("outside"):
        convolve()
    found = {}
    with profiling.profiled(found):
        pass
    assert found["convolutions"] == 0 and "outside" not in found and "sleep" not in found


def test_a_failure_ends_the_measuring():
    found = {}
    with pytest.raises(ZeroDivisionError), profiling.profiled(found):
        convolve()
        1 / 0  # noqa: B018
    assert found["convolutions"] > 0
    again = {}
    with profiling.profiled(again):
        pass
    assert again["convolutions"] == 0


def test_waiting_gives_the_same_items_and_closes_what_gives_them():
    closed = []

    def items():
        try:
            for number in range(3):
                time.sleep(0.02)
                yield number
        finally:
            closed.append(True)

    found = {}
    with profiling.profiled(found):
        assert list(phases.waiting(items(), "items")) == [0, 1, 2]
    assert 0.06 <= found["items"] <= found["wall"]
    some = phases.waiting(items(), "items")
    assert next(some) == 0 and closed == [True]
    some.close()
    assert closed == [True, True]


def test_the_table_has_a_row_per_stage():
    stages = {"baseline": {"wall": 2.0, "convolutions": 1.5}, "evaluate": {"wall": 1.0, "counting": 0.1}}
    assert profiling.table(stages).rows == [["baseline", "2.0", "75", "0"], ["evaluate", "1.0", "0", "10"]]


def test_phases_of_threads_add_up_and_work_elsewhere_is_waited_for():
    waited = []

    def sleep():
        with phases.phase("sleep"):
            time.sleep(0.05)

    with phases.measured() as seconds:
        threads = [threading.Thread(target=sleep) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with phases.phase("queued", wait=lambda: waited.append(time.sleep(0.05))):
            pass
    assert seconds["sleep"] >= 0.15 and seconds["queued"] >= 0.05
    with phases.phase("queued", wait=lambda: waited.append(None)):
        pass
    assert len(waited) == 1  # not where nobody measures


def test_mxnet_leaves_no_profile_of_its_own(tmp_path):
    code = "from gluon_confseg import profiling\nfrom gluon_confseg.backend import mx\n"
    code += "with profiling.profiled({}):\n    mx.nd.ones((2, 2)).wait_to_read()\n"
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
    assert not list(tmp_path.iterdir())
