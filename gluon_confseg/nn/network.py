"""The whole network: encoder, subnets 0..M, fusion, upsampling to the image (paper figure 1)."""

from typing import Sequence

from ..backend import mx
from .fusion import Fusion
from .subnet import Subnet
from .upsample import Upsample


class ConfSegNet(mx.gluon.HybridBlock):
    """Images (N, 3, H, W), normalised as in training -> fused log-scores (N, K, H, W), any H and W.

    Parameters
    ----------
    encoder : a block with `output_stride` that gives a tuple of feature maps (see nn/encoders.py)
    subnets : subnet 0, then one per group of `fusion`
    fusion : how their outputs become K scores
    """

    def __init__(self, encoder: mx.gluon.HybridBlock, subnets: Sequence[Subnet], fusion: Fusion):
        super().__init__()
        with self.name_scope():
            self.encoder = encoder
            self.subnets = mx.gluon.nn.HybridSequential()
            self.subnets.add(*subnets)
            self.fusion = fusion
            self.upsample = Upsample(subnets[0].num_outputs, encoder.output_stride)

    def hybrid_forward(self, F, x):
        features = self.encoder(x)
        logits = [subnet(*subnet.inputs(features)) for subnet in self.subnets]
        return self.upsample(self.fusion(*logits), x)
