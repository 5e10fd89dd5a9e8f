"""The whole network: encoder, subnets 0..M, fusion, upsampling to the image (paper figure 1)."""

from typing import Sequence, Union

from ..backend import mx
from .fusion import Fusion
from .merged import MergedSubnets
from .subnet import Subnet
from .upsample import Upsample


class ConfSegNet(mx.gluon.HybridBlock):
    """Images (N, 3, H, W), normalised as in training -> fused log-scores (N, K, H, W), any H and W.

    Parameters
    ----------
    encoder : a block with `output_stride` that gives a tuple of feature maps (see nn/encoders.py)
    subnets : subnet 0, then one per group of `fusion`; or all of them as MergedSubnets, for inference
    fusion : how their outputs become K scores
    """

    def __init__(self, encoder: mx.gluon.HybridBlock, subnets: Union[Sequence[Subnet], MergedSubnets], fusion: Fusion):
        super().__init__()
        with self.name_scope():
            self.encoder = encoder
            if isinstance(subnets, MergedSubnets):
                self.subnets, outputs = subnets, subnets.num_outputs[0]
            else:
                self.subnets, outputs = mx.gluon.nn.HybridSequential(), subnets[0].num_outputs
                self.subnets.add(*subnets)
            self.fusion = fusion
            self.upsample = Upsample(outputs, encoder.output_stride)

    def hybrid_forward(self, F, x):
        features = self.encoder(x)
        if isinstance(self.subnets, MergedSubnets):
            logits = self.subnets(*features)
        else:
            logits = [subnet(*subnet.inputs(features)) for subnet in self.subnets]
        return self.upsample(self.fusion(*logits), x)
