"""Several workers: every image is one's, sums are exact, and they train as one process would."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.workers import Job, _SharedJob, joined

ROOT = Path(__file__).resolve().parents[1]


def place(rank, count):
    job = Job()
    job.rank, job.count = rank, count
    return job


@given(st.integers(1, 9), st.integers(0, 40), st.data())
def test_shares_partition(count, number, data):
    items = data.draw(st.permutations(range(number)))
    shares = [place(rank, count).share(items) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(number))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for share in shares:
        assert share == [item for item in items if item in share]  # their order


class Servers:
    """Stands in for the servers of a job whose workers are threads: a key holds the sum of what all pushed."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=30)
        self.pushed = {}

    def worker(self, rank, count):
        return _Worker(self, rank, count)


class _Worker:
    def __init__(self, servers, rank, count):
        self.servers, self.rank, self.num_workers = servers, rank, count

    def init(self, key, value):
        self.servers.pushed.setdefault(key, {})

    def pushpull(self, key, values, priority=0):
        values = values if isinstance(values, list) else [values]
        self.servers.pushed[key][self.rank] = sum(value.asnumpy() for value in values)
        self.servers.barrier.wait()
        total = sum(self.servers.pushed[key].values())
        for value in values:
            value[:] = mx.nd.array(total, dtype=total.dtype)
        self.servers.barrier.wait()


def together(count, work):
    """[work(job of each worker)], at the same time."""
    servers, results = Servers(count), [None] * count

    def run(rank):
        try:
            results[rank] = work(_SharedJob(servers.worker(rank, count)))
        except ConfsegError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.data())
def test_counts_are_summed_exactly(count, data):
    near = st.sampled_from([2**12, 2**24, 2**36, 2**53, 2**60]).flatmap(lambda n: st.integers(n - 3, n + 3))
    counts = st.one_of(st.integers(0, 5), near)
    parts = data.draw(st.lists(st.lists(counts, min_size=4, max_size=4), min_size=count, max_size=count))
    found = together(count, lambda job: job.total_counts(np.array(parts[job.rank], np.int64).reshape(2, 2)))
    for each in found:
        assert each.dtype == np.int64 and each.ravel().tolist() == [sum(column) for column in zip(*parts)]


def test_a_count_by_itself_is_summed_as_well():
    assert [int(each) for each in together(3, lambda job: job.total_counts(np.array(5000)))] == [15000] * 3


def test_counts_up_to_the_last_of_int64_and_no_further():
    for extra in (0, 1):
        parts = [2**62, 2**62 - 1 + extra]
        found = together(2, lambda job, parts=parts: job.total_counts(np.array([parts[job.rank]], np.int64)))
        if extra:
            assert all(isinstance(each, ConfsegError) and "2^63" in str(each) for each in found)
        else:
            assert [int(each[0]) for each in found] == [2**63 - 1] * 2


def test_values_are_gathered_by_rank_and_told_by_the_first():
    values = [{"a": [1, None]}, "é" * 300, 3]
    assert together(3, lambda job: job.gather(values[job.rank])) == [values] * 3
    assert together(3, lambda job: job.tell(values[job.rank])) == [values[0]] * 3


def test_a_difference_is_an_error_on_all_workers_that_names_who():
    assert together(3, lambda job: job.require_same("the weather", {"sun": 1}, "wait")) == [None] * 3
    found = together(3, lambda job: job.require_same("the weather", job.rank // 2, "wait"))
    assert [str(each) for each in found] == ["the weather of worker 2: not what worker 0 has; wait"] * 3


def test_one_process_is_its_own_sum():
    counts = np.array([[2**62, 1]])
    assert Job().total_counts(counts) is counts and Job().gather("x") == ["x"] and Job().tell(5) == 5
    Job().require_same("anything", 1, "")


@pytest.mark.parametrize(
    "kvstore, variables, message",
    [
        ("dist_async", {}, "--kvstore dist_async: choose one of local, dist_sync, dist_device_sync"),
        ("dist_sync", {}, "--kvstore dist_sync: no launcher started this .* confseg launch -n 2 -s 1 confseg run NAME"),
        ("dist_sync", {"DMLC_ROLE": "worker"}, r"no launcher started this \(DMLC_PS_ROOT_URI is not set\)"),
        ("local", {"DMLC_ROLE": "worker"}, "give --kvstore dist_sync as well"),
    ],
)
def test_a_job_that_cannot_be_joined(monkeypatch, kvstore, variables, message):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfsegError, match=message):
        with joined(kvstore):
            pass


def test_alone_by_default(monkeypatch):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with joined("local") as job:
        assert (job.rank, job.count, job.first) == (0, 1, True)


# On MXNet's own servers: sums that float32 cannot hold, and the fit of test_training.py, each on its part of a batch.
WORKER = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from gluon_confseg.workers import joined
from test_training import values
from test_workers import fit_shared
with joined("dist_sync") as job:
    counts = np.array([2**53 + 1, 2**62 - 1, 3], np.int64) + job.rank
    found = fit_shared(job, Path(sys.argv[1]) / f"{job.rank}")
    np.savez(Path(sys.argv[1]) / f"{job.rank}.npz", counts=job.total_counts(counts), *found)
"""


def fit_shared(job, folder):
    from test_training import Batches, make_encoder, make_head, schedule, values

    from gluon_confseg import training
    from gluon_confseg.course import Course
    from gluon_confseg.data.loader import Batch

    class Shared(Batches):
        def epoch(self, number, first=0):
            for batch in super().epoch(number, first):
                mine = job.share(range(len(batch.ids)))
                yield Batch(batch.images[mine], batch.labels[mine], [batch.ids[i] for i in mine])

    folder.mkdir()
    settings = schedule(epochs=1)
    trunk = make_encoder(trained=True, settings=settings)
    heads = [make_head(*name, trunk.encoder, settings) for name in (("all", "new"), ("group", "ce"))]
    if not job.first:  # another start, which is not to count
        heads[0].block.subnet.collect_params().initialize(mx.init.Normal(1), force_reinit=True)
    same = (trunk, heads, Course(heads), [mx.cpu(0)], settings)
    training.fit(training.Training(Shared(), *same, job=job), folder / "c.npz", "test")
    assert (folder / "c.npz").exists() == job.first
    return [value for head in heads for value in values(head.block.subnet)] + values(trunk.encoder)


def test_two_workers_train_as_one_process(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-c", "from gluon_confseg.cli import main; main()", "launch", "-n", "2", "-s", "1"]
    command = [*launch, sys.executable, str(script), str(tmp_path), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert first["counts"].tolist() == second["counts"].tolist() == [2**54 + 3, 2**63 - 1, 7]
    expected = fit_shared(Job(), tmp_path / "one")
    for index, value in enumerate(expected):
        np.testing.assert_array_equal(first[f"arr_{index}"], second[f"arr_{index}"])
        np.testing.assert_allclose(first[f"arr_{index}"], value, rtol=1e-4, atol=1e-6)
