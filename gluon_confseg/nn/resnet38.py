"""ResNet-38, "Model A1" of Wu, Shen and van den Hengel, "Wider or Deeper" (2016), and its released checkpoints.

A checkpoint is an MXNet file of `arg:` and `aux:` arrays. The name of each there is that of the Gluon parameter without
the encoder's prefix, with "moving_" for "running_": `aux:bn2a_branch2a_moving_mean` is
`<prefix>bn2a_branch2a_running_mean`. The released head, `conv6a` and `linear19`, is subnet 0.
"""

import logging
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple, Union

from ..backend import mx
from ..errors import ConfsegError
from ..tensor_base import Tensors, Unreadable, refusal, shown
from ..tensor_files import read_tensors
from .subnet import Subnet
from .weights import fitted_value

nn = mx.gluon.nn

_EPSILON = 1.001e-5
_BRANCHES = ("branch2a", "branch2b1", "branch2b2")
_HEAD = re.compile(r"arg:(conv6a|linear\d+)_(weight|bias)")
_HEAD_DILATION = (12, 12)
_NAMED = 3  # so many names of each kind go into an error

_log = logging.getLogger(__name__)


class _Block(NamedTuple):
    """A residual block: its name in the checkpoint, and width, kernel and dilation of each of its convolutions."""

    name: str
    channels: Tuple[int, ...]
    kernels: Tuple[int, ...]
    dilations: Tuple[int, ...]
    stride: int = 1
    dropout: float = 0.0


def _level(level: int, blocks: int, channels: Tuple[int, int], *, stride: int = 1, dilation: int = 1) -> List[_Block]:
    """Blocks of two 3x3 convolutions; the stride is that of the first one, whose input is not yet dilated."""
    first = _Block(f"{level}a", channels, (3, 3), (1, dilation), stride)
    return [first, *(_Block(f"{level}b{i}", channels, (3, 3), (dilation, dilation)) for i in range(1, blocks))]


# One entry per stage of the encoder: levels 2 and 3, 4, 5, and 6 and 7 with bn7.
_STAGES = (
    (*_level(2, 3, (128, 128), stride=2), *_level(3, 3, (256, 256), stride=2)),
    _level(4, 6, (512, 512), stride=2),
    _level(5, 3, (512, 1024), dilation=2),
    (
        _Block("6a", (512, 1024, 2048), (1, 3, 1), (1, 4, 1), dropout=0.3),
        _Block("7a", (1024, 2048, 4096), (1, 3, 1), (1, 4, 1), dropout=0.5),
    ),
)


def _convolution(name: str, in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1):
    padding = ((kernel - 1) * dilation + 1) // 2
    return nn.Conv2D(
        channels, kernel, stride, padding, dilation, use_bias=False, in_channels=in_channels, prefix=f"{name}_"
    )


def _batchnorm(name: str, channels: int):
    return nn.BatchNorm(epsilon=_EPSILON, in_channels=channels, prefix=f"{name}_")


class _PreActivationBlock(mx.gluon.HybridBlock):
    """BN-ReLU-convolution two or three times, added to the input, or to its projection where width or size changes.

    The 1x1 projection reads the first BN-ReLU's output; dropout, in training, stands before the last convolution.
    """

    def __init__(self, block: _Block, in_channels: int):
        super().__init__(prefix="")  # parameters keep the names of the checkpoint
        name, out_channels = block.name, block.channels[-1]
        inputs = (in_channels, *block.channels)
        with self.name_scope():
            self.preactivation = nn.HybridSequential(prefix="")
            self.preactivation.add(_batchnorm(f"bn{name}_{_BRANCHES[0]}", in_channels), nn.Activation("relu"))
            self.shortcut = None
            if block.stride != 1 or in_channels != out_channels:
                self.shortcut = _convolution(f"res{name}_branch1", in_channels, out_channels, 1, block.stride)
            self.body = nn.HybridSequential(prefix="")
            for i, (branch, kernel, dilation) in enumerate(zip(_BRANCHES, block.kernels, block.dilations)):
                if i:
                    self.body.add(_batchnorm(f"bn{name}_{branch}", inputs[i]), nn.Activation("relu"))
                if block.dropout and i == len(block.kernels) - 1:
                    self.body.add(nn.Dropout(block.dropout))
                stride = 1 if i else block.stride
                layer = f"res{name}_{branch}"
                self.body.add(_convolution(layer, inputs[i], block.channels[i], kernel, stride, dilation))

    def hybrid_forward(self, F, x):
        activated = self.preactivation(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.body(activated)


class ResNet38Encoder(mx.gluon.HybridBlock):
    """ResNet-38 (Model A1) up to bn7 and its ReLU, at output stride 8; all shapes are known from the start.

    Stages (channels at stride): levels 3, 4 and 5, 256 at 4, 512 at 8 and 1024 at 8, which are sums before their
    BatchNorm, and bn7's ReLU, 4096 at 8. Level 2 is none: its map, at stride 2, would be held in memory to the end.
    Input: RGB of [0, 1] less mean (0.485, 0.456, 0.406), over std (0.229, 0.224, 0.225).
    """

    output_stride = 8
    stages = 4

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv1a = _convolution("conv1a", 3, 64, 3)
            channels = 64
            for index, blocks in enumerate(_STAGES, 1):
                stage = nn.HybridSequential(prefix="")
                for block in blocks:
                    stage.add(_PreActivationBlock(block, channels))
                    channels = block.channels[-1]
                setattr(self, f"stage{index}", stage)
            self.stage4.add(_batchnorm("bn7", channels), nn.Activation("relu"))

    def hybrid_forward(self, F, x):
        first = self.stage1(self.conv1a(x))
        second = self.stage2(first)
        third = self.stage3(second)
        return first, second, third, self.stage4(third)


def is_released_checkpoint(path: Union[str, Path]) -> bool:
    """Whether `path` is a file with `arg:` or `aux:` arrays; False for a Gluon .params file and for what is no file."""
    try:
        _read(path)
    except ConfsegError:
        return False
    return True


def load_encoder(encoder: ResNet38Encoder, path: Union[str, Path]) -> None:
    """Fill an initialised encoder from a released checkpoint; the names of its head are logged, being subnet 0's.

    Raises ConfsegError for a file that is missing or damaged, and for a parameter or array without counterpart or of
    another shape or not finite; then nothing is changed.
    """
    values = _read(path)
    head = [name for name in values if _HEAD.fullmatch(name)]
    _fill(_encoder_parameters(encoder), {name: values[name] for name in values if name not in head}, path)
    _log.info("%s: %d arrays are the encoder's; the head's are %s", path, len(values) - len(head), ", ".join(head))


def load_head(subnet: Subnet, path: Union[str, Path]) -> None:
    """Fill an initialised subnet with `conv6a` and `linear<K>`, K its outputs, of a released checkpoint.

    Raises ConfsegError like `load_encoder`, and for a subnet that is not built like the released head.
    """
    values = _read(path)
    _fill(_head_parameters(subnet), {name: values[name] for name in values if _HEAD.fullmatch(name)}, path)


def _encoder_parameters(encoder: ResNet38Encoder) -> Dict[str, mx.gluon.Parameter]:
    found = {}
    for parameter in encoder.collect_params().values():
        name = parameter.name[len(encoder.prefix) :]
        kind = "aux" if "_running_" in name else "arg"
        found[f"{kind}:{name.replace('_running_', '_moving_')}"] = parameter
    return found


def _head_parameters(subnet: Subnet) -> Dict[str, mx.gluon.Parameter]:
    found = subnet._collect_params_with_prefix()
    built = set(found) == {"body.0.weight", "body.0.bias", "classifier.weight", "classifier.bias"}
    if not built or subnet.classifier._kwargs["dilate"] != _HEAD_DILATION or subnet.stages != (-1,):
        raise ConfsegError(
            "subnet0: it is not built like ResNet-38's released head; "
            "set {hidden: 1, channels: 512, kernel: 3, dilation: 12, norm: none, stages: [-1]}"
        )
    layers = (("body.0", "conv6a"), ("classifier", f"linear{subnet.num_outputs}"))
    return {f"arg:{name}_{kind}": found[f"{layer}.{kind}"] for layer, name in layers for kind in ("weight", "bias")}


def _read(path: Union[str, Path]) -> Tensors:
    values = read_tensors(path)
    if not any(name.startswith(("arg:", "aux:")) for name in values):
        raise ConfsegError(f"{path} is not a released checkpoint: no array in it is named arg:... or aux:...")
    return values


def _fill(parameters: Dict[str, mx.gluon.Parameter], values: Tensors, path: Union[str, Path]) -> None:
    missing = [name for name in parameters if name not in values]
    unknown = [shown(name) for name in values if name not in parameters]
    misshapen = [
        f"{name} {values[name].shape} instead of {parameter.shape}"
        for name, parameter in parameters.items()
        if name in values and not _fits(values[name].shape, parameter.shape)
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
    problems = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds if names]
    if problems:
        raise ConfsegError(f"{path} is not a checkpoint of this ResNet-38: arrays {', '.join(problems)}")
    try:
        arrays = {name: fitted_value(values[name], name, parameter) for name, parameter in parameters.items()}
    except Unreadable as error:
        raise refusal(str(path), str(error)) from error
    for name, parameter in parameters.items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))
        parameter._finish_deferred_init()  # where the shape was not known: Gluon would wait for the first batch


def _fits(shape: Tuple[int, ...], wanted: Tuple[int, ...]) -> bool:
    """Sizes of 0 are those that Gluon does not know before the first batch."""
    return len(shape) == len(wanted) and all(want in (0, size) for size, want in zip(shape, wanted))


def _first(names: List[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
