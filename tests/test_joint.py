"""Joint training: weights of the heads, plain epochs, the moving matrix in the losses, pulls, resuming."""

from dataclasses import replace

import numpy as np
import pytest
from test_training import (
    CPU,
    TWO,
    Batches,
    assert_identical,
    make_encoder,
    make_head,
    schedule,
    values,
)
from test_training import fit as train

from gluon_confseg import training
from gluon_confseg.backend import mx
from gluon_confseg.config_joint import Joint
from gluon_confseg.config_losses import Loss
from gluon_confseg.groups import ClassGroup, output_spaces
from gluon_confseg.heads import HeadLoss
from gluon_confseg.joint import JointCourse
from gluon_confseg.moving_confusion import MovingConfusion
from gluon_confseg.nn import ConfusionCrossEntropy
from gluon_confseg.run import HeadName

SPACES = output_spaces([ClassGroup((1, 3))], 5, seed=0)
SETTINGS = Loss(kind="confusion", lam=5.0, diagonal="one")
NEW = {"all": 5, "group": 3}


def new_loss(outputs, weights=None):
    weights = np.eye(outputs) if weights is None else weights
    return ConfusionCrossEntropy(weights, lam=SETTINGS.lam, diagonal=SETTINGS.diagonal)


def make(settings, devices=CPU, wanted=None, plain_epochs=1, decay=0.9):
    """Trunk, heads (all classes, and a group) with the new loss, and their course."""
    trunk = make_encoder(devices, frozen=False, trained=True, settings=settings)
    plain = [make_head(name, "ce", trunk.encoder, settings, devices) for name in NEW]
    heads = []
    for head, (name, outputs) in zip(plain, NEW.items()):
        block = HeadLoss(head.block.subnet, new_loss(outputs), head.block.factor)
        block.loss.initialize(ctx=devices)
        block.hybridize(static_alloc=True)
        heads.append(replace(head, name=name, block=block, weight=1.0 if name == "all" else 0.5))
    plain = [replace(head, block=old.block) for head, old in zip(heads, plain)]
    names = [HeadName(0, "new", joint="j"), HeadName(1, "new", joint="j")]
    joint = Joint(subnet0="new", subnets="new", plain_epochs=plain_epochs, decay=decay)
    return trunk, heads, JointCourse(joint, names, heads, plain, [SETTINGS] * 2, SPACES, wanted)


def fit(folder, settings, made, devices=CPU, **options):
    trunk, heads, course = made
    train(trunk, heads, settings, folder, devices, course=course, **options)
    return values(trunk.encoder) + [value for head in heads for value in values(head.block.subnet)]


@pytest.mark.parametrize("devices", [CPU, TWO])
def test_the_gradient_of_a_head_into_the_encoder_counts_its_weight(devices):
    settings = schedule()
    trunk = make_encoder(devices, trained=True, settings=settings)
    heads = [make_head(*name, trunk.encoder, settings, devices) for name in (("all", "ce"), ("group", "new"))]
    heads[1] = replace(heads[1], weight=0.5)
    batch = next(Batches().epoch(0))
    stepped = training.step(batch, trunk, heads, devices, settings)
    # with a rate of 0 no parameter has moved: the same forward pass, one loss, one backward pass
    reference = make_encoder(trained=True, settings=settings)
    own = [make_head(*name, reference.encoder, settings) for name in (("all", "ce"), ("group", "new"))]
    with mx.autograd.record():
        features = reference.features(mx.nd.array(batch.images))
        losses = [
            head.block(mx.nd.array(training._target(batch.labels, head)), *head.block.subnet.inputs(features))[0]
            for head in own
        ]
        total = losses[0] + 0.5 * losses[1]
    total.backward()
    for loss, expected in zip(stepped.losses, losses):
        np.testing.assert_allclose(loss, expected.asnumpy(), rtol=1e-5)  # printed without the weight
    pairs = [(trunk.encoder, reference.encoder), *((a.block.subnet, b.block.subnet) for a, b in zip(heads, own))]
    for found, expected in pairs:
        compared = 0
        for left, right in zip(found.collect_params().values(), expected.collect_params().values()):
            if left.grad_req != "null":
                gradient = sum(part.asnumpy() for part in left.list_grad())
                if devices == TWO:  # allreduce has given each device the sum
                    gradient = left.list_grad()[0].asnumpy()
                wanted = right.grad().asnumpy()
                np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-5 * max(1, np.abs(wanted).max()))
                compared += 1
        assert compared > 1


def test_the_first_epochs_are_plain_and_then_the_losses_have_the_moving_matrix(tmp_path):
    settings = schedule(epochs=3)
    trunk, heads, course = make(settings, plain_epochs=2)
    seen, counted = [], []
    after = course.after_update

    def spy(epoch, matrices):
        counted.append(matrices["all"])
        after(epoch, matrices)
        seen.append([head.block.loss.wrong.data().asnumpy().copy() for head in heads])

    course.after_update = spy
    assert course.heads(1)[0].block.loss is not heads[0].block.loss
    fit(tmp_path, settings, (trunk, heads, course))
    assert len(seen) == 9
    by_hand = MovingConfusion(5, 0.9)
    for update, (matrix, found) in enumerate(zip(counted, seen)):
        by_hand.update(matrix)
        moved = by_hand.matrix()
        weights = [m.row_normalized() for m in (moved, moved.merged(SPACES["groups"][0]))]
        for own, outputs, constant in zip(weights, NEW.values(), found):
            fresh = new_loss(outputs, own if update >= 6 else None)
            fresh.initialize()
            np.testing.assert_array_equal(constant, fresh.wrong.data().asnumpy())
    assert course.heads(2)[0].block.loss is heads[0].block.loss
    assert [len(pulls) for pulls in course.pulls] == [2, 2, 2]
    assert all(first == 1 and 0 < second < 20 for first, second in course.pulls)


def test_pulls_are_those_that_are_wanted(tmp_path):
    settings = schedule(epochs=2)
    wanted = [[1.0, 0.3], [1.0, 0.05]]
    made = make(settings, wanted=wanted)
    found = fit(tmp_path, settings, made)
    np.testing.assert_allclose(made[2].pulls, wanted, rtol=1e-4)
    (tmp_path / "own").mkdir()
    others = fit(tmp_path / "own", settings, make(settings))
    assert any((a != b).any() for a, b in zip(found, others))


@pytest.mark.parametrize("wanted", [None, [[1.0, 0.2]] * 4])
def test_resuming_is_exact(tmp_path, wanted):
    """Stopped in the plain epochs, at their end and after it."""
    settings = schedule(epochs=4)

    def run(folder, stop_after=None):
        def stop(epoch, metrics):
            if epoch + 1 == stop_after:
                raise KeyboardInterrupt

        made = make(settings, wanted=wanted, plain_epochs=2)
        parameters = fit(folder, settings, made, on_epoch=stop)
        constants = [head.block.loss.wrong.data().asnumpy() for head in made[1]]
        return parameters + constants, made[2].state()

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole, state = run(tmp_path / "whole")
    for stop_after in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", stop_after)
    parts, continued = run(tmp_path / "parts")
    assert_identical(whole, parts)
    assert state == continued and len(state["pulls"]) == 4
