"""HybridBlocks of the method: encoders, subnets, fusion, the whole network, and the losses."""

from .competing_losses import FocalLoss, LogitAdjustedCrossEntropy, LossMaxPooling, OhemCrossEntropy
from .encoders import ENCODERS, SmallEncoder, get_encoder, make_encoder
from .fusion import Fusion
from .losses import ConfusionCrossEntropy, PixelCrossEntropy
from .merged import MergedSubnets
from .network import ConfSegNet
from .plugins import register_encoder
from .resnet38 import ResNet38Encoder
from .subnet import Subnet
from .upsample import MatrixUpsample, Upsample

__all__ = [
    "ENCODERS",
    "ConfSegNet",
    "ConfusionCrossEntropy",
    "FocalLoss",
    "Fusion",
    "LogitAdjustedCrossEntropy",
    "LossMaxPooling",
    "MatrixUpsample",
    "MergedSubnets",
    "OhemCrossEntropy",
    "PixelCrossEntropy",
    "ResNet38Encoder",
    "SmallEncoder",
    "Subnet",
    "Upsample",
    "get_encoder",
    "make_encoder",
    "register_encoder",
]
