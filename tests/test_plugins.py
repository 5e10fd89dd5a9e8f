"""A user's own network by --plugin: from the command line end to end, and what is said of one that is none."""

import os
import subprocess
import sys
import textwrap

import pytest

from gluon_confseg import cli, pipeline, results
from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn import ConfSegNet, Fusion, Subnet, get_encoder, plugins, register_encoder
from gluon_confseg.places import config_path

# as in the docstring of nn/encoders.py: output stride 4, its own head
NETWORK = """
from gluon_confseg.backend import mx
from gluon_confseg.nn import Subnet, register_encoder

nn = mx.gluon.nn

class MyNet(mx.gluon.HybridBlock):
    output_stride, stages = 4, 2

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.first = nn.Conv2D(8, 3, strides=2, padding=1, activation="relu")
            self.norm = nn.BatchNorm()
            self.second = nn.Conv2D(12, 3, strides=2, padding=1, activation="relu")

    def hybrid_forward(self, F, x):
        first = self.norm(self.first(x))
        return first, self.second(first)

    def new_head(self, num_classes):
        return Subnet(num_classes, hidden=0, kernel=1)

register_encoder("mynet", MyNet)
"""
SETTINGS = (
    "data.built_in={train: 4, val: 2, size: [48, 64]}",
    "augment.crop=[32, 48]",
    "baseline={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0, loss_stride: 2}",
    "subnets={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0, loss_stride: 2}",
    "subnet.channels=4",
    "subnet0.channels=4",
    "groups.source=[[Road, Pavement], [Car, Bicyclist, Pedestrian]]",
    "devices=[cpu:0]",
    "encoder={name: mynet, frozen_batchnorm: true}",
)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(plugins, "_encoders", {})


def plugin(folder, text, name="network.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def confseg(folder, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", "from gluon_confseg.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=str(folder), capture_output=True, text=True, check=False)


def run(folder, file, output, *more):
    settings = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    return confseg(folder, "--plugin", file, "run", "camvid", "--output", folder / output, *settings)


def test_from_the_command_line_run_evaluate_info_and_no_further_with_another_file(tmp_path):
    file = plugin(tmp_path, NETWORK)
    done = run(tmp_path, file, "run")
    assert done.returncode == 0, done.stderr
    trained = tmp_path / "run"
    names = set(mx.nd.load(str(trained / "subnet0.baseline.params")))
    assert names == {"classifier.weight", "classifier.bias"}  # new_head's, not subnet0's
    evaluated = confseg(tmp_path, "--plugin", file, "evaluate", trained, "--cell", "subnets_new")
    assert evaluated.returncode == 0, evaluated.stderr
    found = {cell.key: cell for cell in results.read(trained / "results.json").cells}
    assert f"{100 * found['subnets_new'].miou:.2f}" in evaluated.stdout
    told = confseg(tmp_path, "--plugin", file, "info", trained, "--size", "64x96")
    assert told.returncode == 0 and "subnet 2 (4 outputs)" in told.stdout

    without = confseg(tmp_path, "evaluate", trained)
    assert without.returncode == 2 and "one of your own wants confseg --plugin FILE.py" in without.stderr
    file.write_text(NETWORK + "# changed\n")
    refused = run(tmp_path, file, "run")
    assert refused.returncode == 2 and "plugin: " in refused.stderr and "--restart" in refused.stderr


@pytest.mark.slow
def test_a_network_that_is_already_trained_is_taken_as_it_is(tmp_path):
    file = plugin(tmp_path, NETWORK)
    assert run(tmp_path, file, "one").returncode == 0
    weights = ("encoder.weights=one/encoder.params", "subnet0.weights=one/subnet0.baseline.params")
    done = run(tmp_path, file, "two", "baseline.epochs=0", *weights)
    assert done.returncode == 0, done.stderr
    one, two = (results.read(tmp_path / name / "results.json") for name in ("one", "two"))
    assert one.baseline.confusion == two.baseline.confusion


def test_a_yaml_cannot_name_code(tmp_path, monkeypatch):
    plugin(tmp_path, "raise SystemExit('was run')", "evil.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("evil", "evil.py", "evil.MyNet"):
        settings = [*SETTINGS, f"encoder.name={name}"]
        with pytest.raises(ConfsegError, match="unknown encoder"):
            pipeline.run(config_path("camvid"), overrides=settings, output="out")


def test_from_python():
    encoder = make_network()
    network = ConfSegNet(encoder, [encoder.new_head(5)], Fusion([], 5))
    network.initialize()
    assert network(mx.nd.zeros((1, 3, 21, 30))).shape == (1, 5, 21, 30)
    register_encoder("fromhere", make_network)
    assert plugins.encoder_digest("fromhere") is None
    again = get_encoder("fromhere", ctx=[mx.cpu(0), mx.cpu(1)])
    assert again(mx.nd.zeros((1, 3, 21, 30), ctx=mx.cpu(1)))[-1].context == mx.cpu(1)


def make_network():
    scope = {"__name__": "a_script"}
    exec(NETWORK.replace('register_encoder("mynet", MyNet)', ""), scope)
    return scope["MyNet"]()


def test_weights_of_the_factory_stay():
    def factory():
        encoder = make_network()
        encoder.initialize(mx.init.Constant(0.125))
        encoder(mx.nd.zeros((1, 3, 8, 8)))  # as after load_parameters, nothing is deferred
        return encoder

    register_encoder("trained", factory)
    encoder = get_encoder("trained", ctx=[mx.cpu(1)])
    weight = encoder.first.weight.data(mx.cpu(1))
    assert (weight == 0.125).asnumpy().all()


def test_batchnorm_is_frozen_where_asked():
    register_encoder("mynet", make_network)
    for frozen in (True, False):
        encoder = get_encoder("mynet", frozen_batchnorm=frozen)
        assert encoder.norm._kwargs["use_global_stats"] is frozen


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1", "registers no encoder; let it call gluon_confseg.nn.register_encoder"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "line 1: SyntaxError"),
        (
            "from gluon_confseg.nn import register_encoder\nregister_encoder('small', int)",
            "line 2: ConfsegError: register_encoder: the name 'small' is taken",
        ),
        ("from gluon_confseg.nn import register_encoder\nregister_encoder('x', 3)", "cannot be called"),
    ],
)
def test_a_file_that_is_no_plugin(tmp_path, text, message):
    path = plugin(tmp_path, text)
    with pytest.raises(ConfsegError) as caught:
        plugins.run_plugin(path)
    assert str(caught.value).startswith(f"--plugin {path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["confseg", "--plugin", "absent.py", "run", "camvid"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capfd.readouterr().err.strip() == "confseg: error: --plugin absent.py: there is no such file"


def test_the_same_name_twice(tmp_path):
    plugins.run_plugin(plugin(tmp_path, NETWORK))
    with pytest.raises(ConfsegError, match="the name 'mynet' is taken"):
        plugins.run_plugin(plugin(tmp_path, NETWORK, "other.py"))


class _Odd(mx.gluon.HybridBlock):
    """A stride-1 encoder with one thing changed."""

    output_stride, stages = 1, 1

    def hybrid_forward(self, F, x):
        return (x,)


class _NoTuple(_Odd):
    def hybrid_forward(self, F, x):
        return x


class _TooMany(_Odd):
    stages = 2


class _WrongStride(_Odd):
    output_stride = 2


class _NoStride(_Odd):
    output_stride = None


class _Fails(_Odd):
    def hybrid_forward(self, F, x):
        return (x.nonsense(),)


class _HeadWithoutInputs(_Odd):
    def new_head(self, num_classes):
        head = mx.gluon.nn.Conv2D(num_classes, 1)
        head.num_outputs = num_classes
        return head


class _HeadOfOtherClasses(_Odd):
    def new_head(self, num_classes):
        return Subnet(num_classes + 1, channels=2)


class _HeadThatShrinks(_Odd):
    def new_head(self, num_classes):
        head = Subnet(num_classes, hidden=0)
        head.classifier = mx.gluon.nn.Conv2D(num_classes, 3)
        return head


@pytest.mark.parametrize(
    "factory, message",
    [
        (_NoTuple, "gives no tuple of 1 feature maps"),
        (_TooMany, "gives no tuple of 2 feature maps"),
        (_WrongStride, r"gives a last feature map of shape \(1, 3, 65, 97\) .* promises height and width \(33, 49\)"),
        (_NoStride, "its attribute output_stride is None, not a positive integer"),
        (_Fails, "fails on an image of shape .*: AttributeError: .*nonsense"),
        (_HeadWithoutInputs, r"its new_head\(3\) gives a block without the method inputs\(features\)"),
        (_HeadOfOtherClasses, r"its new_head\(3\) gives no HybridBlock with num_outputs 3"),
        (_HeadThatShrinks, r"the head of new_head\(3\) gives \(1, 3, 63, 95\), not \(1, 3, 65, 97\)"),
        (lambda: 3, "its factory gives a int, not a HybridBlock"),
        (lambda: 1 / 0, "its factory fails: ZeroDivisionError: division by zero"),
    ],
)
def test_an_encoder_that_does_not_keep_the_protocol(factory, message):
    register_encoder("odd", factory)
    with pytest.raises(ConfsegError, match=f"^encoder 'odd': {message}") as caught:
        get_encoder("odd")
    assert "\n" not in str(caught.value)
