"""Mixed precision: near float32, over float32 parameters; loss and resize left alone; overflows skipped; exact resume.

On CPUs in bfloat16, with the loss scaling of float16. A float16 convolution wants a GPU: only its graph is tested.
"""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_training import CPU, TWO, Batches, assert_identical, fit, make_encoder, make_head, schedule, values

from gluon_confseg import backend, checkpoint, mixed_precision, training
from gluon_confseg.backend import mx
from gluon_confseg.cuda import Driver
from gluon_confseg.errors import ConfsegError
from gluon_confseg.heads import HeadLoss, Trunk
from gluon_confseg.mixed_precision import LossScale, half_type, to_half
from gluon_confseg.nn import Subnet

ALL_STAGES = (0, 1, 2)
BFLOAT16 = mx.contrib.amp.amp.bfloat16


@pytest.fixture(autouse=True)
def _bfloat16():
    try:
        half_type(CPU)
    except ConfsegError as error:
        pytest.skip(str(error))


def half_trunk(devices=CPU, trained=False, settings=None, frozen=True):
    trunk = make_encoder(devices, frozen=frozen, trained=trained, settings=settings)
    half = to_half(trunk.encoder, 1, "bfloat16")
    half.hybridize()
    return Trunk(trunk.encoder, trunk.trainer, trunk.learning_rate, half)


def half_head(name, loss, trunk, settings, devices=CPU):
    whole = make_head(name, loss, trunk.encoder, settings, devices)
    subnet = whole.block.subnet
    block = HeadLoss(subnet, whole.block.loss, 8 // settings.loss_stride, to_half(subnet, 1, "bfloat16"))
    block.hybridize(static_alloc=True)
    return dataclasses.replace(whole, block=block)


def nodes(symbol):
    """Operators by name of node, with the dtypes of the outputs and the names of the inputs."""
    graph = json.loads(symbol.tojson(remove_amp_cast=False))["nodes"]
    return [(node["op"], [graph[i[0]] for i in node["inputs"]]) for node in graph]


def gradients(head):
    return [p.grad().asnumpy().copy() for p in head.block.subnet.collect_params().values()]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convolutions_are_cast_and_parameters_are_not(dtype):
    encoder = make_encoder().encoder
    half = to_half(encoder, 1, dtype)
    assert all(half.collect_params()[name] is parameter for name, parameter in encoder.collect_params().items())
    assert {np.dtype(p.dtype) for p in half.collect_params().values()} == {np.dtype("float32")}
    _, outputs = half._cached_graph
    assert {np.dtype(dtype) for dtype in outputs.infer_type(input0="float32")[1]} == {np.dtype("float32")}
    found = nodes(outputs)
    assert sum(op == "Convolution" for op, _ in found) == 16
    for op, inputs in found:
        if op == "Convolution":  # each weight by a cast; the data by one, or half already
            assert inputs[1]["op"] == "amp_cast" and inputs[0]["op"] != "null"
        if op == "BatchNorm":
            assert {node["op"] for node in inputs[1:]} == {"null"}
    inner = outputs.get_internals()
    types = dict(zip(inner.list_outputs(), inner.infer_type(input0="float32")[1]))
    halves = [name for name, found in types.items() if np.dtype(found) != np.dtype("float32")]
    assert sum("conv" in name and name.endswith("fwd_output") for name in halves) == 16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_resizes_are_float32(dtype):
    encoder = make_encoder().encoder
    subnet = Subnet(5, channels=8, dilation=2, stages=ALL_STAGES)
    subnet.initialize()
    subnet(*subnet.inputs(encoder(mx.nd.zeros((1, 3, 32, 32)))))
    _, outputs = to_half(subnet, len(ALL_STAGES) + 1, dtype)._cached_graph
    resized = [inputs for op, inputs in nodes(outputs) if op == "_contrib_BilinearResize2D"]
    assert len(resized) == 3 and {node["op"] for inputs in resized for node in inputs} == {"null"}


def test_the_loss_and_the_upsampling_are_float32():
    head = half_head("all", "new", half_trunk(), schedule())
    features = mx.nd.random.normal(shape=(2, 128, 4, 6))
    label = mx.nd.array(np.random.default_rng(0).integers(0, 3, (2, 16, 24)))
    value, logits = head.block(label, features)
    # casts of the features, of two weights and two biases, and back of the logits
    operators = [op for op, _ in nodes(head.block.half._cached_graph[1])]
    assert operators.count("amp_cast") == 6
    upsampled = head.block.upsample(logits, (16, 24))
    assert {logits.dtype, upsampled.dtype, value.dtype} == {np.float32}
    np.testing.assert_array_equal(head.block.loss(upsampled, label).asnumpy(), value.asnumpy())


@pytest.mark.parametrize("loss", ["ce", "new"])
def test_a_heads_gradients_are_near_those_of_float32(loss):
    """To 8 % in norm (measured: 5): bfloat16 rounds to 0.4 %, which also moves values over the corner of the ReLU.

    Those of the classifier, which no ReLU follows, to 1 % (measured: 0.4).
    """
    settings, batch = schedule(), next(Batches().epoch(0))
    trunk = make_encoder()
    whole = make_head("all", loss, trunk.encoder, settings)
    half = half_head("all", loss, trunk, settings)
    expected_loss, *_ = training.step(batch, trunk, [whole], CPU, settings)
    found_loss, *_ = training.step(batch, trunk, [half], CPU, settings, [LossScale()])
    np.testing.assert_allclose(found_loss, expected_loss, rtol=5e-3)
    for bound, found, expected in zip((0.08, 0.08, 0.01, 0.01), gradients(half), gradients(whole)):
        found = found / LossScale().value
        assert found.dtype == np.float32 and (found != expected).any()
        assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


def test_an_encoders_gradients_are_as_near_as_rounding_its_weights_leaves_them():
    """Untrained deep networks magnify any rounding, so the measure is what bfloat16 weights alone do in float32."""
    settings, batch = schedule(), next(Batches().epoch(0))

    def run(half, rounded):
        trunk = (half_trunk if half else make_encoder)(CPU, trained=True, settings=settings)
        if rounded:
            for p in trunk.encoder.collect_params().values():
                p.set_data(mx.nd.amp_cast(mx.nd.amp_cast(p.data(), dtype=BFLOAT16), dtype="float32"))
        head = (half_head if half else make_head)("all", "ce", trunk if half else trunk.encoder, settings)
        training.step(batch, trunk, [head], CPU, settings, [LossScale()] if half else None)
        found = [p.grad().asnumpy().ravel() for p in trunk.encoder.collect_params().values() if p.grad_req != "null"]
        return np.concatenate(found) / (LossScale().value if half else 1)

    expected, found = run(False, False), run(True, False)
    error, control = (np.linalg.norm(x - expected) / np.linalg.norm(expected) for x in (found, run(False, True)))
    print(f"gradient error {error:.3f}, from rounding the weights alone {control:.3f}")
    assert 0 < error < 3 * control and error < 0.3


@pytest.mark.parametrize("devices", [CPU, TWO])
def test_training_in_mixed_precision_learns(tmp_path, devices):
    settings = schedule(epochs=6, loss_stride=1, images_per_pass=1)
    trunk = half_trunk(devices, trained=True, settings=settings, frozen=False)
    head = half_head("all", "ce", trunk, settings, devices)
    losses = []

    def note(epoch, metrics):
        losses.append(metrics.loss("all.ce"))

    path = fit(trunk, [head], settings, tmp_path, devices, amp=True, on_epoch=note)
    assert losses[-1] < losses[0]
    assert {x.dtype for x in values(trunk.encoder) + values(head.block.subnet)} == {np.dtype("float32")}
    with np.load(path) as saved:
        assert {saved[name].dtype for name in saved.files if name != "meta"} == {np.dtype("float32")}


@pytest.mark.parametrize("trained", [False, True])
def test_resuming_is_exact_loss_scale_included(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(LossScale, "__init__", lambda self: self.__dict__.update(value=4.0, steady=0, patience=4))

    def run(folder, stop_after=None):
        settings = schedule(epochs=3)
        trunk = half_trunk(trained=trained, settings=settings, frozen=False)
        heads = [half_head(name, "ce", trunk, settings) for name in ("all", "group")]

        def stop(epoch, metrics):
            if epoch + 1 == stop_after:
                raise KeyboardInterrupt

        path = fit(trunk, heads, settings, folder, amp=True, on_epoch=stop)
        state = checkpoint.newest_meta(path)["loss_scales"]
        return values(trunk.encoder) + [x for head in heads for x in values(head.block.subnet)], state

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole, state = run(tmp_path / "whole")
    assert [(s["value"], s["steady"]) for s in state] == [(16.0, 1)] * 2  # 9 updates, doubled after each 4th
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 1)
    parts, state_of_parts = run(tmp_path / "parts")
    assert_identical(whole, parts)
    assert state == state_of_parts


def test_an_overflow_is_skipped_and_lowers_that_scale_only(monkeypatch):
    settings, batch = schedule(), next(Batches().epoch(0))
    trunk = half_trunk()
    heads = [half_head("all", "ce", trunk, settings), half_head("group", "ce", trunk, settings)]
    for head in heads:
        head.trainer.set_learning_rate(0.05)
    scales = [LossScale(), LossScale()]
    training.step(batch, trunk, heads, CPU, settings, scales)
    kept, other = values(heads[0].block.subnet), values(heads[1].block.subnet)
    momentum = heads[0].trainer._updaters[0].states[0].asnumpy()
    backward = training._backward

    def overflowing(*arguments):
        outputs = backward(*arguments)
        heads[0].block.subnet.classifier.weight.grad()[0, 0, 0, 0] = np.inf
        return outputs

    monkeypatch.setattr(training, "_backward", overflowing)
    training.step(batch, trunk, heads, CPU, settings, scales)
    assert_identical(kept, values(heads[0].block.subnet))
    np.testing.assert_array_equal(momentum, heads[0].trainer._updaters[0].states[0].asnumpy())
    assert any((a != b).any() for a, b in zip(other, values(heads[1].block.subnet)))
    assert (scales[0].value, scales[0].steady) == (2.0**15, 0)
    assert (scales[1].value, scales[1].steady) == (2.0**16, 2)


def test_an_overflow_that_lasts_ends_training_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "all_finite", lambda arrays: False)
    settings = schedule(epochs=8)
    trunk = half_trunk()
    head = half_head("all", "ce", trunk, settings)
    before = values(head.block.subnet)
    message = r"all\.ce overflow at every loss scale in epoch 6, update 2 \(images image0, .*amp: false"
    with pytest.raises(ConfsegError, match=message):  # the 17th update: from 2^16 to below 1
        fit(trunk, [head], settings, tmp_path, amp=True)
    assert_identical(before, values(head.block.subnet))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_looks_at_every_array(bad):
    arrays = [mx.nd.ones((3,)) for _ in range(450)]
    assert mixed_precision.all_finite(arrays)
    for index in (0, 199, 200, 449):
        arrays[index][2] = bad
        assert not mixed_precision.all_finite(arrays)
        arrays[index][2] = 1


def test_the_scale_doubles_when_nothing_overflows_up_to_a_bound():
    scale = LossScale(patience=2)
    values_seen = []
    for finite in (True, True, True, False, True, True):
        scale.record(finite)
        values_seen.append(scale.value / 2**16)
    assert values_seen == [1, 2, 2, 1, 1, 2]
    for _ in range(100):
        scale.record(True)
    assert scale.value == 2.0**24


def test_the_type_of_a_device(monkeypatch):
    assert half_type(TWO) == "bfloat16"
    gpu = [mx.gpu(0), mx.gpu(1)]
    for capability in ((8, 6), (5, 3)):
        monkeypatch.setattr(
            mixed_precision, "query_driver", lambda found=capability: Driver("", gpus=[("A", found)] * 2)
        )
        assert half_type(gpu) == "float16"
    monkeypatch.setattr(mixed_precision, "query_driver", lambda: Driver("", gpus=[("A", (8, 6)), ("Old", (5, 2))]))
    assert half_type(gpu[:1]) == "float16"
    with pytest.raises(ConfsegError, match=r"amp: Old \(compute capability 5\.2\) has no float16"):
        half_type(gpu)
    with pytest.raises(ConfsegError, match="not both"):
        half_type([*CPU, *gpu])


def test_a_cpu_without_bfloat16_is_refused_in_one_line(tmp_path):
    """oneDNN held to AVX2, as on an older CPU."""
    environment = {**os.environ, "DNNL_MAX_CPU_ISA": "AVX2", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "from gluon_confseg.cli import main; main()"
    arguments = ["run", "camvid", "--cpu", "--output", str(tmp_path / "run"), "--set", "amp=true"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1]
        == "confseg: error: amp: this CPU has no bfloat16 (it wants AVX-512); set amp: false"
    )
    assert not (tmp_path / "run").exists() and backend.mx is mx


def test_a_run_in_mixed_precision_and_passes_says_so(tmp_path):
    settings = [
        "data.built_in={train: 4, val: 2, size: [64, 96]}",
        "augment.crop=[48, 64]",
        "baseline={epochs: 1, batch_size: 4, images_per_pass: 1, warmup: 0}",
        "subnets={epochs: 1, batch_size: 4, images_per_pass: 2, warmup: 0}",
        "subnet0.channels=8",
        "subnet.channels=8",
        "groups.threshold=0.0001",
        "devices=[cpu:0, cpu:1]",
        "amp=true",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = ["run", "camvid", "--output", str(tmp_path / "run"), *(x for s in settings for x in ("--set", s))]
    code = "from gluon_confseg.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "run.log").read_text()
    assert "baseline: batch 4 = 2 devices x 2 passes x 1 image, mixed precision (bfloat16)" in log
    assert "subnets: batch 4 = 2 devices x 1 pass x 2 images, mixed precision (bfloat16)" in log
    assert log.count("WARNING baseline.images_per_pass: BatchNorm is not frozen") == 1
    assert "subnets.images_per_pass" not in log  # one pass, and no BatchNorm that moves
    other = (
        "baseline.batch_size is 4, in camvid.yaml 8; subnets.batch_size is 4, in camvid.yaml 8, and the learning rate"
    )
    assert log.count(other) == 1
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr
