"""Training: heads together equal heads alone, frozen means frozen, resuming is exact, devices agree."""

import numpy as np
import pytest

from gluon_confseg import checkpoint, phases, training
from gluon_confseg.backend import mx
from gluon_confseg.config_schedules import Schedule
from gluon_confseg.course import Course
from gluon_confseg.data.loader import Batch
from gluon_confseg.errors import ConfsegError
from gluon_confseg.heads import Head, HeadLoss, Trunk, make_trainer
from gluon_confseg.nn import ConfusionCrossEntropy, PixelCrossEntropy, Subnet, get_encoder
from gluon_confseg.workers import Job

CPU = [mx.cpu(0)]
TWO = [mx.cpu(0), mx.cpu(1)]
OUTPUTS = {"all": 5, "group": 3}
TABLES = {"all": np.arange(5), "group": np.array([0, 1, 0, 2, 0])}
WEIGHTS = np.full((5, 5), 0.1) + 0.5 * np.eye(5)


class Batches:
    """Stands in for a TrainLoader: random batches that depend on the epoch only."""

    def __len__(self):
        return 3

    def epoch(self, number, first=0):
        rng = np.random.default_rng(number)
        for index in range(len(self)):
            labels = rng.integers(0, 5, (4, 32, 40)).astype("uint8")
            labels[:, :3] = 255
            images = rng.normal(size=(4, 3, 32, 40)).astype("float32") + labels[:, None] % 5
            if index >= first:
                yield Batch(images.astype("float32"), labels, [f"image{i}" for i in range(4)])


def schedule(**changes):
    return Schedule(**{"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "warmup": 2, "loss_stride": 2, **changes})


def make_head(name, loss, encoder, settings, devices=CPU):
    mx.random.seed(sum(map(ord, f"{name}{loss}")))
    outputs = OUTPUTS[name]
    subnet = Subnet(outputs, channels=8, dilation=2)
    subnet.initialize(ctx=devices)
    subnet(*subnet.inputs(encoder(mx.nd.zeros((1, 3, 32, 32), ctx=devices[0]))))
    block = {"ce": PixelCrossEntropy(outputs), "new": ConfusionCrossEntropy(WEIGHTS[:outputs, :outputs])}[loss]
    head = HeadLoss(subnet, block, 8 // settings.loss_stride)
    block.initialize(ctx=devices)
    head.hybridize(static_alloc=True)
    table = np.full(256, 255, np.uint8)
    table[:5] = TABLES[name]
    trainer = make_trainer(subnet, settings)
    return Head(f"{name}.{loss}", head, trainer, settings.learning_rate, table, settings.loss_stride)


def make_encoder(devices=CPU, frozen=True, trained=False, settings=None):
    mx.random.seed(7)
    encoder = get_encoder("small", frozen_batchnorm=frozen, ctx=devices)
    encoder.hybridize()
    if not trained:
        encoder.collect_params().setattr("grad_req", "null")
        return Trunk(encoder)
    return Trunk(encoder, make_trainer(encoder, settings), settings.learning_rate)


def fit(trunk, heads, settings, tmp_path, devices=CPU, amp=False, course=None, on_epoch=lambda *_: None, **options):
    path = tmp_path / "test.checkpoint.npz"
    scales = training.loss_scales(trunk, heads) if amp else None
    same = (trunk, heads, course or Course(heads), devices, settings)
    training.fit(training.Training(Batches(), *same, scales=scales, **options), path, "test", on_epoch=on_epoch)
    return path


def values(block):
    return [p.data(p.list_ctx()[0]).asnumpy() for _, p in sorted(block._collect_params_with_prefix().items())]


def assert_identical(left, right):
    assert len(left) == len(right) > 0
    for a, b in zip(left, right):
        np.testing.assert_array_equal(a, b)


def test_heads_trained_together_are_identical_to_heads_trained_alone(tmp_path):
    names = [("all", "ce"), ("all", "new"), ("group", "ce"), ("group", "new")]
    settings = schedule()
    trunk = make_encoder()
    together = [make_head(*name, trunk.encoder, settings) for name in names]
    start = values(together[2].block.subnet)
    (tmp_path / "together").mkdir()
    fit(trunk, together, settings, tmp_path / "together")
    assert any((a != b).any() for a, b in zip(start, values(together[2].block.subnet)))
    for name, head in zip(names, together):
        alone = make_head(*name, trunk.encoder, settings)
        folder = tmp_path / head.name
        folder.mkdir()
        fit(trunk, [alone], settings, folder)
        assert_identical(values(alone.block.subnet), values(head.block.subnet))


def test_a_frozen_encoder_stays_as_it_is_statistics_included(tmp_path):
    settings = schedule(epochs=1)
    trunk = make_encoder(frozen=False)  # BatchNorm that would move, were it run in training mode
    before = values(trunk.encoder)
    fit(trunk, [make_head("all", "ce", trunk.encoder, settings)], settings, tmp_path)
    assert_identical(before, values(trunk.encoder))


def test_a_trained_encoder_learns(tmp_path):
    settings = schedule(epochs=6, loss_stride=1)
    trunk = make_encoder(frozen=False, trained=True, settings=settings)
    losses = []
    head = make_head("all", "ce", trunk.encoder, settings)
    fit(trunk, [head], settings, tmp_path, on_epoch=lambda epoch, metrics: losses.append(metrics.loss("all.ce")))
    assert len(losses) == 6 and losses[-1] < losses[0]


class WithDropout(Subnet):
    def hybrid_forward(self, F, *inputs):
        return super().hybrid_forward(F, *(F.Dropout(x, p=0.5) for x in inputs))


def stop_after(monkeypatch, updates, ctrl_c):
    """Ctrl-C while update number `updates` is computed."""
    counted, step = [], training.step

    def counting(*arguments):
        counted.append(1)
        if len(counted) == updates:
            ctrl_c()
        return step(*arguments)

    monkeypatch.setattr(training, "step", counting)


@pytest.mark.parametrize("trained, devices", [(False, CPU), (True, CPU), (True, TWO)])
def test_resuming_is_exact(tmp_path, monkeypatch, caplog, ctrl_c, trained, devices):
    """Stopped by Ctrl-C within epochs, with dropout, and BatchNorm that each device has for itself."""
    caplog.set_level("INFO")
    if devices == CPU:  # CPU "devices" share their random numbers: which draws first is chance
        monkeypatch.setitem(globals(), "Subnet", WithDropout)

    def run(folder):
        settings, logged = schedule(epochs=3), []
        trunk = make_encoder(devices, frozen=False, trained=trained, settings=settings)
        head = make_head("all", "new", trunk.encoder, settings, devices)
        mx.random.seed(len(str(folder)))  # whatever was drawn before does not matter
        fit(trunk, [head], settings, folder, devices, on_epoch=lambda _, metrics: logged.append(metrics.summary()))
        return values(trunk.encoder) + values(head.block.subnet), logged

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole, logged = run(tmp_path / "whole")
    seconds = []
    for updates in (2, 2, 3):  # of three updates an epoch: the fourth and the seventh are the first of their epochs
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, updates, ctrl_c)
            run(tmp_path / "parts")
        seconds.append(checkpoint.newest_meta(tmp_path / "parts" / "test.checkpoint.npz")["seconds"])
    parts, last = run(tmp_path / "parts")
    assert_identical(whole, parts)
    assert last == logged[2:]
    seconds.append(checkpoint.newest_meta(tmp_path / "parts" / "test.checkpoint.npz")["seconds"])
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]  # the sum over all sessions
    assert "continuing after epoch 0 of 3, update 2 of 3 of the next" in caplog.text
    assert "continuing after epoch 1 of 3, update 1 of 3 of the next" in caplog.text


def test_images_of_an_epoch_that_one_process_began_count_once(tmp_path, monkeypatch, ctrl_c):
    """Continued by two workers, of whom the first reports what the checkpoint has."""

    def run(job):
        settings, found = schedule(epochs=1), []
        trunk = make_encoder()
        head = make_head("all", "ce", trunk.encoder, settings)
        fit(trunk, [head], settings, tmp_path, job=job, on_epoch=lambda _, metrics: found.append(metrics.samples))
        return found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, ctrl_c)
        run(Job())
    samples = []
    for rank in (1, 0):  # worker 1 writes nothing
        job = Job()
        job.rank, job.count = rank, 2
        samples += run(job)
    assert samples == [4, 12]


def test_checkpoints_within_an_epoch_change_nothing(tmp_path, monkeypatch):
    found = []
    for seconds in (600.0, 0.0):
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
        folder = tmp_path / str(seconds)
        folder.mkdir()
        settings = schedule()
        trunk = make_encoder(frozen=False, trained=True, settings=settings)
        head = make_head("all", "ce", trunk.encoder, settings)
        fit(trunk, [head], settings, folder)
        found.append(values(trunk.encoder) + values(head.block.subnet))
    assert_identical(*found)


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    settings = schedule(epochs=1)
    trunk = make_encoder()
    head = make_head("all", "ce", trunk.encoder, settings)
    path = fit(trunk, [head], settings, tmp_path)
    before = path.read_bytes()
    parameter = head.trainer._params[0]
    parameter.set_data(parameter.data() * np.inf)
    with pytest.raises(ConfsegError, match=f"{parameter.name} is not finite after the last update"):
        checkpoint.Kept(path, [head.trainer]).save({})
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    settings = schedule(epochs=3)
    trunk = make_encoder()

    def run():
        epochs = []
        head = make_head("all", "ce", trunk.encoder, settings)
        path = fit(trunk, [head], settings, tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
        return epochs, path, values(head.block.subnet)

    epochs, path, expected = run()
    assert epochs == [0, 1, 2]
    previous = path.with_name("previous-test.checkpoint.npz")
    before = previous.read_bytes()
    path.write_bytes(path.read_bytes()[:-100])
    epochs, _, found = run()
    assert epochs == [2]
    assert "falling back" in caplog.text
    assert_identical(expected, found)
    assert previous.read_bytes() == before  # the damaged one did not take its place
    for each in (path, previous):
        each.write_bytes(b"")
    epochs, _, found = run()
    assert epochs == [0, 1, 2] and "no checkpoint is whole; the training starts over" in caplog.text
    assert_identical(expected, found)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    settings = schedule(epochs=1)
    trunk = make_encoder()
    fit(trunk, [make_head("all", "ce", trunk.encoder, settings)], settings, tmp_path)
    with pytest.raises(ConfsegError, match="holds another network"):
        fit(trunk, [make_head("group", "ce", trunk.encoder, settings)], settings, tmp_path)


@pytest.mark.parametrize("trained", [False, True])
def test_one_and_two_devices_agree_where_batchnorm_is_frozen(tmp_path, trained):
    results = []
    for devices in (CPU, TWO):
        folder = tmp_path / str(len(devices))
        folder.mkdir()
        settings = schedule(epochs=1)
        trunk = make_encoder(devices, trained=trained, settings=settings)
        heads = [make_head(*name, trunk.encoder, settings, devices) for name in (("all", "new"), ("group", "ce"))]
        fit(trunk, heads, settings, folder, devices)
        results.append([value for head in heads for value in values(head.block.subnet)] + values(trunk.encoder))
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_batchnorm_statistics_are_averaged_over_devices(tmp_path):
    settings = schedule(epochs=1)
    trunk = make_encoder(TWO, frozen=False, trained=True, settings=settings)
    fit(trunk, [make_head("all", "ce", trunk.encoder, settings, TWO)], settings, tmp_path, TWO)
    for parameter in trunk.encoder.collect_params(".*running_mean").values():
        first, second = (value.asnumpy() for value in parameter.list_data())
        np.testing.assert_array_equal(first, second)
        assert first.any()


def test_a_loss_that_is_not_finite_names_epoch_update_and_images(tmp_path):
    settings = schedule(learning_rate=1e30)
    trunk = make_encoder()
    with pytest.raises(ConfsegError, match=r"all\.ce is not finite in epoch 1, update [23] \(images image0, image1"):
        fit(trunk, [make_head("all", "ce", trunk.encoder, settings)], settings, tmp_path)


def test_learning_rate_rises_linearly_and_falls_linearly_to_zero():
    factors = [training.learning_rate_factor(update, 10, 2) for update in range(10)]
    np.testing.assert_allclose(factors, [0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert training.learning_rate_factor(0, 10, 0) == 1


def test_metrics_count_the_crops_at_the_resolution_of_the_features():
    settings = schedule()
    trunk = make_encoder()
    head = make_head("all", "ce", trunk.encoder, settings)
    batch = next(Batches().epoch(0))
    logits = np.zeros((4, 5, 4, 5), "float32")
    logits[:, 2] = 1
    metrics = training.EpochMetrics.empty([head])
    added = metrics.add([head], batch, np.full((1, 4), 2.0), [logits], np.ones(1))
    counts = metrics.matrices["all.ce"].counts
    assert counts.sum() == (batch.labels[:, 4::8, 4::8] != 255).sum()
    assert counts[:, 2].sum() == counts.sum()
    np.testing.assert_array_equal(added["all.ce"].counts, counts)
    assert metrics.loss("all.ce") == 2.0


@pytest.mark.parametrize("trained", [False, True])
def test_the_phases_of_a_step_are_told_apart(trained):
    settings = schedule()
    trunk = make_encoder(frozen=False, trained=trained, settings=settings)
    heads = [make_head("all", "new", trunk.encoder, settings), make_head("group", "ce", trunk.encoder, settings)]
    with phases.measured() as seconds:
        training.step(next(Batches().epoch(0)), trunk, heads, CPU, settings)
    assert set(seconds) == {"encoder", "heads", "loss", "update"} and min(seconds.values()) > 0
