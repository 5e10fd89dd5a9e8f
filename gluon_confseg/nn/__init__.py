"""HybridBlocks of the method: encoders, subnets, fusion, the whole network, and the losses."""

from .encoders import ENCODERS, SmallEncoder, bare_encoder, get_encoder
from .fusion import Fusion
from .losses import ConfusionCrossEntropy, PixelCrossEntropy
from .merged import MergedSubnets
from .network import ConfSegNet
from .resnet38 import ResNet38Encoder
from .subnet import Subnet
from .upsample import Upsample

__all__ = [
    "ENCODERS",
    "ConfSegNet",
    "ConfusionCrossEntropy",
    "Fusion",
    "MergedSubnets",
    "PixelCrossEntropy",
    "ResNet38Encoder",
    "SmallEncoder",
    "Subnet",
    "Upsample",
    "bare_encoder",
    "get_encoder",
]
