"""GluonCV's networks taken apart: a ResNet classifier gives an encoder, a segmentation model an encoder and its head.

The head becomes subnet 0, built for the run's number of classes. Every layer is GluonCV's own block, so the names in
its .params files fit; only how the heads resize is ours: GluonCV fixes the size when it builds the model, here a
feature map is resized like another one (bilinear, corners aligned, as there), so that any image size will do.
"""

import difflib
import re
from functools import partial
from typing import Callable, List, Optional, Sequence

from ..backend import import_gluoncv, mx
from ..errors import ConfsegError
from ..files import PathLike
from ..tensor_files import read_tensors
from .weights import load_imagenet, load_part, load_weights, stored_file

RESNETS = ("resnet18_v1b", "resnet34_v1b", "resnet50_v1b", "resnet101_v1b", "resnet152_v1b")
PRETRAINED = "pretrained"  # encoder.weights: the segmentation model's own, from GluonCV's model store
_KINDS = "FCN (fcn_...), PSPNet (psp_...) and DeepLabV3 (deeplab_...) on a ResNet or ResNeSt, as deeplab_resnet50_citys"
_ON_RESNET = re.compile(r"(fcn|psp|deeplab)_(resnet|resnest)\d+_[a-z]+")
_ON_WIDE_RESNET = "deeplab_v3b_plus_wideresnet_citys"
_AUXILIARY = "auxlayer."  # the FCN head that GluonCV trains beside the other one


class ResNetEncoder(mx.gluon.HybridBlock):
    """A ResNet or ResNeSt of GluonCV's without its pooling and classifier, dilated to output stride 8 (section 4.1).

    Stages are the four residual levels, at strides 4, 8, 8, 8. `make_network` gives the classifier.
    """

    output_stride = 8
    stages = 4

    def __init__(self, make_network: Callable[..., mx.gluon.HybridBlock]):
        super().__init__()
        with self.name_scope():
            network = make_network(pretrained=False, dilated=True)
            self.stem = mx.gluon.nn.HybridSequential()
            for block in (network.conv1, network.bn1, network.relu, network.maxpool):
                self.stem.add(block)
            self.layer1, self.layer2 = network.layer1, network.layer2
            self.layer3, self.layer4 = network.layer3, network.layer4

    def hybrid_forward(self, F, x):
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def resnet_encoder(name: str) -> ResNetEncoder:
    """The encoder of one of RESNETS."""
    return ResNetEncoder(partial(import_gluoncv().model_zoo.get_model, name))


class GluonCVHead(mx.gluon.HybridBlock):
    """The head of a GluonCV segmentation model as subnet 0; its dropout and BatchNorm act as GluonCV's.

    `head(*head.inputs(features))`, with the encoder's tuple of feature maps, gives logits (N, num_outputs, h, w) at the
    resolution of the last one. Names of its parameters in a file of the whole model begin with `part`.
    """

    part = "head."

    def __init__(self, num_outputs: int):
        super().__init__()
        self.num_outputs = num_outputs
        with self.name_scope():
            self.head = self._make(import_gluoncv().model_zoo, num_outputs)
        self.head.block[-1].weight.init = mx.init.Normal(0.01)  # training starts at uniform scores, as in Subnet

    def inputs(self, features: Sequence) -> List:
        """What the head is called with: the last feature map."""
        return [features[-1]]


class FCNHead(GluonCVHead):
    """3x3 convolution, BatchNorm, ReLU, dropout, classifier (Long et al. 2015, as in GluonCV)."""

    def _make(self, zoo, num_outputs):
        return zoo.fcn._FCNHead(2048, num_outputs)

    def hybrid_forward(self, F, x):
        return self.head(x)


class PSPHead(GluonCVHead):
    """Pyramid pooling at 1, 2, 3 and 6, then as FCN's (Zhao et al. 2017)."""

    def _make(self, zoo, num_outputs):
        return zoo.pspnet._PSPHead(num_outputs)

    def hybrid_forward(self, F, x):
        psp, pyramid = self.head.psp, [x]
        for size, convolution in ((1, psp.conv1), (2, psp.conv2), (3, psp.conv3), (6, psp.conv4)):
            pooled = convolution(F.contrib.AdaptiveAvgPooling2D(x, output_size=size))
            pyramid.append(F.contrib.BilinearResize2D(pooled, x, mode="like", align_corners=True))
        return self.head.block(F.concat(*pyramid, dim=1))


class DeepLabHead(GluonCVHead):
    """Atrous spatial pyramid pooling with dilations 12, 24 and 36, then as FCN's (Chen et al. 2017)."""

    def _make(self, zoo, num_outputs):
        return zoo.deeplabv3._DeepLabHead(num_outputs)

    def hybrid_forward(self, F, x):
        *branches, pooling = self.head.aspp.concurent
        pyramid = [*(branch(x) for branch in branches), _spread(F, pooling.gap(x), x)]
        return self.head.block(self.head.aspp.project(F.concat(*pyramid, dim=1)))


class WideResNetHead(GluonCVHead):
    """The last three convolutions of DeepLabV3+ on a WideResNet (Chen et al. 2018); see WideResNetEncoder."""

    part = "head.block."

    def _make(self, zoo, num_outputs):
        return _Parts(block=zoo.deeplabv3b_plus._DeepLabHead(num_outputs).block)

    def hybrid_forward(self, F, x):
        return self.head.block(x)


class SegmentationEncoder(ResNetEncoder):
    """The encoder of GluonCV's FCN, PSPNet or DeepLabV3 `model`, whose head `new_head` gives.

    A ResNeSt trains without its DropBlock, which GluonCV builds for feature maps of one size.
    """

    _HEADS = {"fcn": FCNHead, "psp": PSPHead, "deeplab": DeepLabHead}

    def __init__(self, model: str):
        kind, backbone, _ = model.split("_")
        super().__init__(partial(import_gluoncv().model_zoo.segbase.get_backbone, backbone))
        self.apply(partial(import_gluoncv().nn.dropblock.set_drop_prob, 0))
        self._head = self._HEADS[kind]
        self.classifier = f"{backbone}_v1s" if backbone.startswith("resnet") else backbone

    def new_head(self, num_classes: int) -> GluonCVHead:
        """A fresh head of the model's kind, not initialised."""
        return self._head(num_classes)


class WideResNetEncoder(mx.gluon.HybridBlock):
    """GluonCV's DeepLabV3+ on a WideResNet-38 up to where its decoder has put fine and coarse features together.

    That is at output stride 2: the subnets, too, read those 304 channels there, where the model's own classifier does.
    Stages (channels at stride): 128 at 2, 256 at 4, 1024 at 8, 4096 at 8, 304 at 2.
    """

    output_stride = 2
    stages = 5
    classifier = None  # GluonCV's model store has no such ImageNet network

    def __init__(self, model: str):
        super().__init__()
        zoo = import_gluoncv().model_zoo
        with self.name_scope():
            network = zoo.wideresnet.wider_resnet38_a2(classes=0, dilation=True)
            for name in ("mod1", "pool2", "mod2", "pool3", "mod3", "mod4", "mod5", "mod6", "mod7"):
                setattr(self, name, getattr(network, name))
            head = zoo.deeplabv3b_plus._DeepLabHead(2)  # its classifier is not used
            self.head = _Parts(aspp=head.aspp, c1_block=head.c1_block)

    def hybrid_forward(self, F, x):
        first = self.mod2(self.pool2(self.mod1(x)))
        second = self.mod3(self.pool3(first))
        third = self.mod5(self.mod4(second))
        fourth = self.mod7(self.mod6(third))
        aspp = self.head.aspp
        pyramid = [_spread(F, aspp.b4.gap(fourth), fourth), *(b(fourth) for b in (aspp.b0, aspp.b1, aspp.b2, aspp.b3))]
        coarse = aspp.project(F.concat(*pyramid, dim=1))
        coarse = F.contrib.BilinearResize2D(coarse, first, mode="like", align_corners=True)
        return first, second, third, fourth, F.concat(self.head.c1_block(first), coarse, dim=1)

    def new_head(self, num_classes: int) -> GluonCVHead:
        """A fresh classifier, not initialised."""
        return WideResNetHead(num_classes)


class _Parts(mx.gluon.HybridBlock):
    """Some children of a GluonCV block under the names that they have there."""

    def __init__(self, **children: mx.gluon.HybridBlock):
        super().__init__(prefix="")
        for name, child in children.items():
            setattr(self, name, child)


def _spread(F, pooled, x):
    """(N, C, 1, 1) -> (N, C, h, w) of x: what resizing one pixel gives."""
    return F.broadcast_like(pooled, x, lhs_axes=(2, 3), rhs_axes=(2, 3))


def segmentation_models() -> List[str]:
    """Names of GluonCV's segmentation models that can be taken apart."""
    names = import_gluoncv().model_zoo.get_model_list()
    return sorted(name for name in names if _ON_RESNET.fullmatch(name) or name == _ON_WIDE_RESNET)


def segmentation_encoder(model: Optional[str]) -> mx.gluon.HybridBlock:
    """The encoder of one of GluonCV's segmentation models, not initialised; its `new_head` gives subnet 0.

    Raises ConfsegError for a model that is none, or of a kind that cannot be taken apart (ICNet, DANet, ...).
    """
    names = segmentation_models()
    if model not in names:
        near = difflib.get_close_matches(str(model), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfsegError(
            f"encoder.model: {model!r} cannot be taken apart into encoder and head; what can, of GluonCV's models: "
            f"{_KINDS}, and DeepLabV3+ on a WideResNet, {_ON_WIDE_RESNET}{hint}"
        )
    return WideResNetEncoder(model) if model == _ON_WIDE_RESNET else SegmentationEncoder(model)


def weights_file(model: str, weights: str) -> PathLike:
    """The file of the whole model's weights: `weights`, or, where that is "pretrained", the model store's."""
    return stored_file(model) if weights == PRETRAINED else weights


def load_encoder(encoder: mx.gluon.HybridBlock, model: str, weights: str, ctx: List[mx.Context]) -> None:
    """Fill an encoder of `segmentation_encoder` from "imagenet", "pretrained" or a file, as weights.py says.

    A file may be of the whole model: its head is subnet 0's, an auxiliary head is not used, which is logged.
    Raises ConfsegError where the weights cannot be had or do not fit.
    """
    if weights != "imagenet":
        other_parts = {encoder.new_head(2).part: "subnet 0's", _AUXILIARY: "an auxiliary head's, not used"}
        load_weights(encoder, weights_file(model, weights), ctx, other_parts=other_parts)
    elif encoder.classifier is None:
        raise ConfsegError(f"encoder.weights: there are no ImageNet weights of {model!r}; set it to null or a file")
    else:
        load_imagenet(encoder, encoder.classifier, ctx)


def load_head(head: GluonCVHead, path: PathLike, ctx: List[mx.Context]) -> bool:
    """Fill a head from the file of a whole model, or of the head alone; False, and nothing, where the file has none.

    Raises ConfsegError where the file's head is for other classes or of another network.
    """
    tensors = read_tensors(path)
    classifier = head.head.block[-1].weight
    name = next(name for name, parameter in head._collect_params_with_prefix().items() if parameter is classifier)
    outputs = tensors[name].shape[:1] if name in tensors else (head.num_outputs,)
    if outputs != (head.num_outputs,):
        raise ConfsegError(
            f"{path}: its head is for {outputs[0] if outputs else 0} classes, the run has {head.num_outputs}; choose "
            f"weights for these classes, or a file without {head.part}* (subnet 0 then starts at random)"
        )
    return load_part(head, tensors, str(path), head.part, ctx)


def freeze_batchnorm(block: mx.gluon.HybridBlock) -> None:
    """Let every BatchNorm normalise by its running statistics, which then stay as they are, in training as well."""

    def freeze(child: mx.gluon.Block) -> None:
        if isinstance(child, mx.gluon.nn.BatchNorm):
            child._kwargs["use_global_stats"] = True

    block.apply(freeze)
