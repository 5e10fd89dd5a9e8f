"""Batches in parts: the update of the undivided batch, each device's share in passes, and what is logged of it."""

import numpy as np
import pytest
from test_training import Batches, assert_identical, make_encoder, make_head, schedule, values

from gluon_confseg import batchnorm, training
from gluon_confseg.backend import mx
from gluon_confseg.passes import describe_batch, split_batch

CPU = [mx.cpu(0)]
TWO = [mx.cpu(0), mx.cpu(1)]


@pytest.mark.parametrize(
    "batch_size, devices, images, text",
    [
        (16, 4, 2, "batch 16 = 4 devices x 2 passes x 2 images"),
        (16, 4, None, "batch 16 = 4 devices x 1 pass x 4 images"),
        (8, 1, 8, "batch 8 = 1 device x 1 pass x 8 images"),
        (8, 1, 1, "batch 8 = 1 device x 8 passes x 1 image"),
        (7, 2, 2, "batch 7 = 2 devices x 2 passes x up to 2 images"),
        (4, 2, 99, "batch 4 = 2 devices x 1 pass x 2 images"),
    ],
)
def test_every_image_is_in_one_part(batch_size, devices, images, text):
    contexts = [mx.cpu(index) for index in range(devices)]
    passes = split_batch(batch_size, contexts, images)
    parts = [part for row in passes for _, part in row]
    assert sorted(i for part in parts for i in range(part.start, part.stop)) == list(range(batch_size))
    assert all(part.stop - part.start <= (images or batch_size) for part in parts)
    assert all(len({ctx.device_id for ctx, _ in row}) == len(row) for row in passes)  # a device once in a pass
    assert describe_batch(batch_size, contexts, images) == text


def train(devices, images_per_pass, trained, updates=3):
    """Losses, logits and all parameters after some updates with frozen BatchNorm."""
    settings = schedule(images_per_pass=images_per_pass)
    trunk = make_encoder(devices, trained=trained, settings=settings)
    heads = [make_head(*name, trunk.encoder, settings, devices) for name in (("all", "new"), ("group", "ce"))]
    records = []
    for batch, _ in zip(Batches().epoch(0), range(updates)):
        for trainer in [head.trainer for head in heads] + ([trunk.trainer] if trained else []):
            trainer.set_learning_rate(0.05)
        records.append(training.step(batch, trunk, heads, devices, settings))
    parameters = values(trunk.encoder) + [value for head in heads for value in values(head.block.subnet)]
    return [losses for losses, _, _ in records], [x for _, logits, _ in records for x in logits], parameters


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("devices, images_per_pass", [(CPU, 1), (CPU, 2), (CPU, 3), (TWO, 1)])
def test_passes_make_the_update_of_the_undivided_batch(devices, images_per_pass, trained):
    whole, parts = train(CPU, None, trained), train(devices, images_per_pass, trained)
    assert parts[0][0].shape == (2, 4) and parts[1][0].shape == (4, 5, 4, 5)
    for left, right in zip(whole, parts):
        for a, b in zip(left, right):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_passes_that_hold_the_whole_share_change_no_bit():
    for left, right in zip(train(TWO, None, True), train(TWO, 2, True)):
        assert_identical(left, right)


def test_a_single_pass_is_not_the_batch():
    """That the equality above is no accident: without the sum of the passes the parameters are others."""
    settings = schedule(images_per_pass=2)
    trunk = make_encoder(trained=False)
    head = make_head("all", "ce", trunk.encoder, settings)
    batch = next(Batches().epoch(0))
    training.step(batch, trunk, [head], CPU, settings)
    both = head.block.subnet.classifier.weight.grad().asnumpy().copy()
    target = mx.nd.array(training._target(batch.labels[2:], head))
    with mx.autograd.record():
        loss, _ = head.block(target, *head.block.subnet.inputs(trunk.features(mx.nd.array(batch.images[2:]))))
    loss.backward()
    assert np.abs(both - head.block.subnet.classifier.weight.grad().asnumpy()).max() > 0.01 * np.abs(both).max()


def test_statistics_move_where_batchnorm_is_not_frozen():
    assert batchnorm.has_moving_statistics(make_encoder(frozen=False).encoder)
    assert not batchnorm.has_moving_statistics(make_encoder(frozen=True).encoder)
