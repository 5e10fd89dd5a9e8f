"""Encoders: image to feature maps, at output stride 8.

An encoder is a HybridBlock that maps images (N, 3, H, W) to a tuple of feature maps, one per stage, the last one
(N, C, ceil(H / output_stride), ceil(W / output_stride)); it has the attributes `output_stride` (int) and `stages`
(the number of feature maps). Any block with these can stand in for the ones below.
"""

from functools import partial
from typing import List, Optional

from ..backend import import_gluoncv, mx, settle
from ..errors import ConfsegError
from .resnet38 import ResNet38Encoder, is_released_checkpoint, load_encoder
from .weights import load_imagenet, load_weights

nn = mx.gluon.nn

RESNETS = ("resnet18_v1b", "resnet34_v1b", "resnet50_v1b", "resnet101_v1b", "resnet152_v1b")
RESNET38 = "resnet38_a1"
ENCODERS = ("small", *RESNETS, RESNET38)


class _ConvBN(nn.HybridSequential):
    """3x3 (or 1x1) convolution without bias, BatchNorm, and ReLU where asked."""

    def __init__(self, channels: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1, relu: bool, frozen: bool):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.add(nn.Conv2D(channels, kernel, stride, padding, dilation, use_bias=False))
        self.add(nn.BatchNorm(use_global_stats=frozen))
        if relu:
            self.add(nn.Activation("relu"))


class _ResidualBlock(mx.gluon.HybridBlock):
    """Basic residual block (He et al. 2016) with a 1x1 projection where width or resolution changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, dilation: int, frozen: bool):
        super().__init__()
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(_ConvBN(channels, stride=stride, dilation=dilation, relu=True, frozen=frozen))
            self.body.add(_ConvBN(channels, dilation=dilation, relu=False, frozen=frozen))
            self.shortcut = None
            if stride != 1 or in_channels != channels:
                self.shortcut = _ConvBN(channels, kernel=1, stride=stride, relu=False, frozen=frozen)

    def hybrid_forward(self, F, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.Activation(self.body(x) + shortcut, act_type="relu")


class SmallEncoder(mx.gluon.HybridBlock):
    """About one million parameters, for CPUs: two strided convolutions and six residual blocks.

    Stages (channels at stride): 32 at 4, 64 at 8, 128 at 8 with dilations up to 4.
    """

    output_stride = 8
    stages = 3

    def __init__(self, *, frozen_batchnorm: bool = False):
        super().__init__()
        with self.name_scope():
            self.stage1 = nn.HybridSequential()
            self.stage1.add(_ConvBN(24, stride=2, relu=True, frozen=frozen_batchnorm))
            self.stage1.add(_ConvBN(32, stride=2, relu=True, frozen=frozen_batchnorm))
            self.stage1.add(_ResidualBlock(32, 32, stride=1, dilation=1, frozen=frozen_batchnorm))
            self.stage2 = nn.HybridSequential()
            self.stage2.add(_ResidualBlock(32, 64, stride=2, dilation=1, frozen=frozen_batchnorm))
            self.stage2.add(_ResidualBlock(64, 64, stride=1, dilation=1, frozen=frozen_batchnorm))
            self.stage3 = nn.HybridSequential()
            for in_channels, dilation in ((64, 2), (128, 2), (128, 4)):
                block = _ResidualBlock(in_channels, 128, stride=1, dilation=dilation, frozen=frozen_batchnorm)
                self.stage3.add(block)

    def hybrid_forward(self, F, x):
        first = self.stage1(x)
        second = self.stage2(first)
        return first, second, self.stage3(second)


class ResNetEncoder(mx.gluon.HybridBlock):
    """GluonCV's ResNet v1b without its pooling and classifier, dilated to output stride 8 (paper section 4.1).

    Stages are the four residual levels, at strides 4, 8, 8, 8.
    """

    output_stride = 8
    stages = 4

    def __init__(self, name: str, *, frozen_batchnorm: bool = False):
        super().__init__()
        get_model = import_gluoncv().model_zoo.get_model
        norm = {"use_global_stats": True} if frozen_batchnorm else {}
        with self.name_scope():
            network = get_model(name, pretrained=False, dilated=True, norm_kwargs=norm)
            self.stem = nn.HybridSequential()
            for block in (network.conv1, network.bn1, network.relu, network.maxpool):
                self.stem.add(block)
            self.layer1, self.layer2 = network.layer1, network.layer2
            self.layer3, self.layer4 = network.layer3, network.layer4

    def hybrid_forward(self, F, x):
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def bare_encoder(name: str, *, frozen_batchnorm: bool = False) -> mx.gluon.HybridBlock:
    """An encoder by name (one of ENCODERS) without values, which take no memory yet; ConfsegError for another name."""
    if name not in ENCODERS:
        raise ConfsegError(f"encoder.name: unknown encoder {name!r}; there are {', '.join(ENCODERS)}")
    own = {"small": SmallEncoder, RESNET38: ResNet38Encoder}
    make = own[name] if name in own else partial(ResNetEncoder, name)
    return make(frozen_batchnorm=frozen_batchnorm)


def get_encoder(
    name: str, *, frozen_batchnorm: bool = False, weights: Optional[str] = None, ctx: Optional[List[mx.Context]] = None
) -> mx.gluon.HybridBlock:
    """An initialised encoder by name (one of ENCODERS).

    `weights`: None draws them at random (He et al. 2015), "imagenet" asks GluonCV's model store, anything else is
    a file: .params of this encoder or of GluonCV's classifier, .pth or .safetensors in torchvision's layout (see
    weights.py), or, for resnet38_a1, a released checkpoint. Raises ConfsegError for an unknown name or weights that
    cannot be had.
    """
    ctx = ctx or [mx.cpu()]
    encoder = bare_encoder(name, frozen_batchnorm=frozen_batchnorm)
    encoder.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    encoder(mx.nd.zeros((1, 3, 32, 32), ctx=ctx[0]))  # deferred shapes are settled here, not in the first batch
    settle()
    if weights == "imagenet":
        if name not in RESNETS:
            raise ConfsegError(f"encoder.weights: there are no ImageNet weights of {name!r}; set encoder.weights: null")
        load_imagenet(encoder, name, ctx)
    elif name == RESNET38 and weights is not None and is_released_checkpoint(weights):
        load_encoder(encoder, weights)
    elif weights is not None:
        load_weights(encoder, weights, ctx)
    return encoder
