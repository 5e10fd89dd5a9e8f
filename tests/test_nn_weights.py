"""Weights files into networks: names and values end in the right place, or nothing is changed."""

import logging

import numpy as np
import pytest
from weights_files import bfloat16, contiguous, gluon_file, pth, raw, safetensors, state_dict, write

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.nn.weights import load_parameters, load_weights

CPU = [mx.cpu()]


class Tiny(mx.gluon.HybridBlock):
    """Parameters stem.0.weight (2, 3, 1, 1) and stem.1.gamma, beta, running_mean, running_var (2)."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stem = mx.gluon.nn.HybridSequential()
            self.stem.add(mx.gluon.nn.Conv2D(2, 1, use_bias=False), mx.gluon.nn.BatchNorm(in_channels=2))


def tiny_state(**changes):
    """A state dict for Tiny; of the changes, "__" stands for a dot and None takes a name away."""
    values = {
        "conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1),
        "bn1.weight": np.array([1, 2], np.float32),
        "bn1.bias": np.array([3, 4], np.float32),
        "bn1.running_mean": np.array([5, 6], np.float32),
        "bn1.running_var": np.array([7, 8], np.float32),
        "bn1.num_batches_tracked": np.array(9, np.int64),
        "fc.weight": np.ones((4, 2), np.float32),
    }
    values.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in values.items() if value is not None}


def bare_state():
    """Tiny's parameters and no more."""
    return tiny_state(fc__weight=None, bn1__num_batches_tracked=None)


TINY_NAMES = {
    "stem.0.weight": "conv1.weight",
    "stem.1.gamma": "bn1.weight",
    "stem.1.beta": "bn1.bias",
    "stem.1.running_mean": "bn1.running_mean",
    "stem.1.running_var": "bn1.running_var",
}


def assert_tiny(block, state):
    found = {key: value.data().asnumpy() for key, value in block._collect_params_with_prefix().items()}
    assert set(found) == set(TINY_NAMES)
    for key, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, state[TINY_NAMES[key]], err_msg=key)


def test_our_own_names_and_gluoncvs(tmp_path):
    state = tiny_state()
    ours = {key: state[name] for key, name in TINY_NAMES.items()}
    theirs = {key.replace("stem.0", "conv1").replace("stem.1", "bn1"): value for key, value in ours.items()}
    for names in (ours, theirs, {f"module.{key}": value for key, value in theirs.items()}):
        block = Tiny()  # uninitialised: the file settles the input channels
        load_weights(block, gluon_file(tmp_path / "tiny.params", names), CPU)
        assert_tiny(block, state)


def test_names_of_the_network_itself_come_first(tmp_path):
    class Other(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv1 = mx.gluon.nn.Conv2D(1, 1, in_channels=1, use_bias=False)

    block = Other()
    load_parameters(block, gluon_file(tmp_path / "a.params", {"conv1.weight": np.full((1, 1, 1, 1), 3.0)}), CPU)
    assert block.conv1.weight.data().asscalar() == 3


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_training_is_unwrapped(tmp_path, key):
    value, storages = state_dict(tiny_state(), "module.")
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1], "nesterov": False}]}
    path = write(tmp_path, pth({"epoch": 3, "arch": "x", key: value, "optimizer": optimizer, "none": None}, storages))
    block = Tiny()
    load_weights(block, path, CPU)
    assert_tiny(block, tiny_state())


def test_names_left_over_are_logged_in_one_line(tmp_path, caplog):
    state = {**tiny_state(), "head.weight": np.ones(1, np.float32), "odd\nname": np.ones(1, np.float32)}
    path = write(tmp_path, pth(*state_dict(state)))
    with caplog.at_level(logging.INFO):
        load_weights(Tiny(), path, CPU)
    assert caplog.messages == [f"{path}: 2 names left over, not used: head.weight, odd\\nname"]


@pytest.mark.parametrize(
    "state, reason",
    [
        (
            tiny_state(bn1__bias=None),
            "1 of 5 parameters are not in it (stem.1.beta); choose the file of this very network",
        ),
        (
            {f"x{i}": np.ones(1, np.float32) for i in range(3)},
            "5 of 5 parameters are not in it (stem.0.weight, stem.1.gamma, stem.1.beta, stem.1.running_mean, "
            "stem.1.running_var), 3 of its names are not in the network (x0, x1, x2); "
            "choose the file of this very network",
        ),
        (
            tiny_state(module__bn1__bias=np.ones(2, np.float32)),
            "module.bn1.bias and bn1.bias are both for the parameter stem.1.beta",
        ),
        (tiny_state(bn1__bias=np.ones(3, np.float32)), "bn1.bias is (3,) in it and (2,) in the network"),
        (tiny_state(bn1__bias=np.ones((2, 1), np.float32)), "bn1.bias is (2, 1) in it and (2,) in the network"),
        (
            tiny_state(conv1__weight=np.ones((3, 3, 1, 1), np.float32)),
            "conv1.weight is (3, 3, 1, 1) in it and (2, 0, 1, 1) in the network",
        ),
        (tiny_state(bn1__bias=np.ones(2, np.int64)), "bn1.bias is of type int64, not of a floating point type"),
        (tiny_state(bn1__bias=np.array([1, np.nan], np.float32)), "bn1.bias holds values that are not finite"),
    ],
)
def test_weights_of_another_network(tmp_path, state, reason):
    path, block = write(tmp_path, pth(*state_dict(state))), Tiny()
    with pytest.raises(ConfsegError) as caught:
        load_weights(block, path, CPU)
    assert str(caught.value) == f"{path} does not hold the weights of this network: {reason}"
    assert all(parameter._data is None for parameter in block.collect_params().values())


def test_every_missing_name_is_logged_and_the_error_stays_short(tmp_path, caplog):
    block = mx.gluon.nn.HybridSequential()
    block.add(*(mx.gluon.nn.Dense(1, in_units=1, use_bias=False) for _ in range(10)))
    path = write(tmp_path, pth(*state_dict({"9.weight": np.ones((1, 1), np.float32)})))
    with pytest.raises(ConfsegError, match=r"9 of 10 parameters are not in it \(0.weight, .*7.weight and 1 more\)"):
        load_parameters(block, path, CPU)
    missing = ", ".join(f"{i}.weight" for i in range(9))
    assert caplog.messages == [f"{path}: not found: {missing}; left over: none"]


def test_parameters_of_a_run_allow_nothing_left_over(tmp_path):
    path = write(tmp_path, pth(*state_dict(tiny_state())))
    with pytest.raises(ConfsegError, match=r"2 of its names are not in the network \(bn1.num_.*, fc.weight\); choose"):
        load_parameters(Tiny(), path, CPU)


@pytest.mark.parametrize(
    "dtype, storage, convert",
    [
        ("F32", "FloatStorage", lambda x: x.astype("<f4")),
        ("F64", "DoubleStorage", lambda x: x.astype("<f8")),
        ("F16", "HalfStorage", lambda x: x.astype("<f2")),
        ("BF16", "BFloat16Storage", bfloat16),
    ],
)
def test_floating_point_types(tmp_path, dtype, storage, convert):
    arrays = {name: convert(value) for name, value in bare_state().items()}  # small integers: exact in each type
    value = {name: contiguous(array, name, storage) for name, array in arrays.items()}
    files = (
        safetensors({name: (dtype, array) for name, array in arrays.items()}),
        pth(value, {name: raw(array) for name, array in arrays.items()}),
    )
    for data in files:
        block = Tiny()
        load_parameters(block, write(tmp_path, data), CPU)
        assert_tiny(block, bare_state())


def test_a_float64_too_large_for_float32(tmp_path):
    state = {**bare_state(), "bn1.bias": np.array([1e300, 0])}
    with pytest.raises(ConfsegError, match="bn1.bias holds values that are not finite"):
        load_weights(Tiny(), gluon_file(tmp_path / "tiny.params", state), CPU)
