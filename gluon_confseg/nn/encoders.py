"""Encoders: image to feature maps.

A network of your own
---------------------
An encoder is any HybridBlock with two attributes and one or two methods:

- `output_stride` (int) and `stages` (int, the number of feature maps);
- its forward pass maps images (N, 3, H, W), normalised as the config's `augment` says, to a tuple of feature maps, one
  per stage, the last one (N, C, ceil(H / output_stride), ceil(W / output_stride)), for any H and W;
- optional: `new_head(num_classes)` gives a fresh head, not initialised, which is then subnet 0 (the config's `subnet0`
  has no say but for its weights). Without it subnet 0 is a Subnet. A head is a HybridBlock with the attribute
  `num_outputs` and a method `inputs(features)` that picks from the tuple of feature maps the list it is called with;
  it gives logits (N, num_outputs, h, w) at the resolution of the last feature map. nn/subnet.py is an example.

From Python it is used as it is: ConfSegNet(encoder, subnets, fusion). The command line learns of it from a Python file
that registers a factory by name (configs are data: nothing that a YAML names is ever imported or run)::

    from gluon_confseg.backend import mx
    from gluon_confseg.nn import register_encoder

    class MyNet(mx.gluon.HybridBlock):
        output_stride, stages = 4, 1
        ...

    register_encoder("mynet", MyNet)  # called without arguments, whenever an encoder is needed

and `confseg --plugin FILE.py VERB ...` runs that file, with your permissions, before the verb: `encoder: {name: mynet}`
in the config. Every verb that uses the run's networks wants the same --plugin, but not what `confseg export` writes.
`frozen_batchnorm` sets use_global_stats in each BatchNorm of the block. Weights that the factory loads stay; those of
`encoder.weights` go over them. A run does not go on where the file has changed since.
"""

import warnings
from typing import List, Optional

from ..backend import mx, settle
from ..errors import ConfsegError
from . import gluoncv_models, plugins
from .gluoncv_models import RESNETS
from .resnet38 import ResNet38Encoder, is_released_checkpoint, load_encoder
from .weights import load_imagenet, load_weights

nn = mx.gluon.nn

RESNET38 = "resnet38_a1"
GLUONCV = "gluoncv"  # with `model`: one of GluonCV's segmentation models
ENCODERS = ("small", *RESNETS, RESNET38, GLUONCV)


class _ConvBN(nn.HybridSequential):
    """3x3 (or 1x1) convolution without bias, BatchNorm, and ReLU where asked."""

    def __init__(self, channels: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1, relu: bool):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.add(nn.Conv2D(channels, kernel, stride, padding, dilation, use_bias=False))
        self.add(nn.BatchNorm())
        if relu:
            self.add(nn.Activation("relu"))


class _ResidualBlock(mx.gluon.HybridBlock):
    """Basic residual block (He et al. 2016) with a 1x1 projection where width or resolution changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, dilation: int):
        super().__init__()
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(_ConvBN(channels, stride=stride, dilation=dilation, relu=True))
            self.body.add(_ConvBN(channels, dilation=dilation, relu=False))
            self.shortcut = None
            if stride != 1 or in_channels != channels:
                self.shortcut = _ConvBN(channels, kernel=1, stride=stride, relu=False)

    def hybrid_forward(self, F, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.Activation(self.body(x) + shortcut, act_type="relu")


class SmallEncoder(mx.gluon.HybridBlock):
    """About one million parameters, for CPUs: two strided convolutions and six residual blocks.

    Stages (channels at stride): 32 at 4, 64 at 8, 128 at 8 with dilations up to 4.
    """

    output_stride = 8
    stages = 3

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.stage1 = nn.HybridSequential()
            self.stage1.add(_ConvBN(24, stride=2, relu=True))
            self.stage1.add(_ConvBN(32, stride=2, relu=True))
            self.stage1.add(_ResidualBlock(32, 32, stride=1, dilation=1))
            self.stage2 = nn.HybridSequential()
            self.stage2.add(_ResidualBlock(32, 64, stride=2, dilation=1))
            self.stage2.add(_ResidualBlock(64, 64, stride=1, dilation=1))
            self.stage3 = nn.HybridSequential()
            for in_channels, dilation in ((64, 2), (128, 2), (128, 4)):
                block = _ResidualBlock(in_channels, 128, stride=1, dilation=dilation)
                self.stage3.add(block)

    def hybrid_forward(self, F, x):
        first = self.stage1(x)
        second = self.stage2(first)
        return first, second, self.stage3(second)


def make_encoder(name: str, *, model: Optional[str] = None, frozen_batchnorm: bool = False) -> mx.gluon.HybridBlock:
    """An encoder by name, not initialised: one of ENCODERS, or one that a plugin has registered.

    `model`: which of GluonCV's segmentation models, for the name "gluoncv". Raises ConfsegError for an unknown one.
    """
    if name in plugins.registered():
        encoder = plugins.make(name)
    elif name in RESNETS:
        encoder = gluoncv_models.resnet_encoder(name)
    elif name == GLUONCV:
        encoder = gluoncv_models.segmentation_encoder(model)
    elif name in ENCODERS:
        encoder = {"small": SmallEncoder, RESNET38: ResNet38Encoder}[name]()
    else:
        raise ConfsegError(
            f"encoder.name: unknown encoder {name!r}; there are {', '.join((*ENCODERS, *plugins.registered()))}; "
            "one of your own wants confseg --plugin FILE.py"
        )
    if frozen_batchnorm:
        gluoncv_models.freeze_batchnorm(encoder)
    return encoder


def get_encoder(
    name: str,
    *,
    model: Optional[str] = None,
    frozen_batchnorm: bool = False,
    weights: Optional[str] = None,
    ctx: Optional[List[mx.Context]] = None,
) -> mx.gluon.HybridBlock:
    """An initialised encoder by name: see `make_encoder`.

    `weights`: None draws them at random (He et al. 2015), "imagenet" and, for gluoncv, "pretrained" ask GluonCV's model
    store, anything else is a file: .params of this encoder or of GluonCV's classifier, .pth or .safetensors in
    torchvision's layout (see weights.py); for gluoncv, .params of the whole model; for resnet38_a1, a released
    checkpoint. Raises ConfsegError for an unknown name, weights that cannot be had, a plugin's encoder that is none.
    """
    ctx = ctx or [mx.cpu()]
    encoder = make_encoder(name, model=model, frozen_batchnorm=frozen_batchnorm)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is already initialized")  # a plugin's own weights stay
        encoder.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    if name in plugins.registered():
        encoder.collect_params().reset_ctx(ctx)
        plugins.check(name, encoder, ctx[0])
    else:
        encoder(mx.nd.zeros((1, 3, 32, 32), ctx=ctx[0]))  # deferred shapes are settled here, not in the first batch
    settle()
    if weights is not None:
        _load(encoder, name, model, weights, ctx)
    return encoder


def _load(encoder: mx.gluon.HybridBlock, name: str, model: Optional[str], weights: str, ctx: List[mx.Context]) -> None:
    if name == GLUONCV:
        gluoncv_models.load_encoder(encoder, str(model), weights, ctx)
    elif weights == "imagenet":
        if name not in RESNETS:
            raise ConfsegError(f"encoder.weights: there are no ImageNet weights of {name!r}; set encoder.weights: null")
        load_imagenet(encoder, name, ctx)
    elif name == RESNET38 and is_released_checkpoint(weights):
        load_encoder(encoder, weights)
    else:
        load_weights(encoder, weights, ctx)
