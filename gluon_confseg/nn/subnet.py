"""A subnet: the classifier of one output space on the encoder's features (paper section 3, figures 1 and 4)."""

from typing import List, Sequence, Tuple

from ..backend import mx
from ..errors import ConfsegError

nn = mx.gluon.nn


class Subnet(mx.gluon.HybridBlock):
    """`hidden` dilated convolutions with ReLU, then a dilated classifier convolution.

    `subnet(*subnet.inputs(features))`, with the encoder's tuple of feature maps, gives logits
    (N, num_outputs, h, w) at the resolution of the last one. Output 0 of a group's subnet is "others", then the group's
    classes in label order; subnet 0 has all classes.

    Parameters
    ----------
    num_outputs : outputs of the classifier, at least 2
    hidden, channels, kernel, dilation : number, width, size and dilation of the hidden convolutions (paper: 1 or 2,
        512, 3, 12; the classifier has the same kernel and dilation)
    norm : "none" or "batch" (BatchNorm after each hidden convolution)
    stages : indices of the encoder stages whose feature maps are concatenated at the input; those of another
        resolution are resized (bilinear) to the last stage's
    """

    def __init__(
        self,
        num_outputs: int,
        *,
        hidden: int = 1,
        channels: int = 512,
        kernel: int = 3,
        dilation: int = 12,
        norm: str = "none",
        stages: Sequence[int] = (-1,),
    ):
        super().__init__()
        if num_outputs < 2:
            raise ConfsegError(f"a subnet wants at least 2 outputs, got {num_outputs}")
        if kernel % 2 == 0:
            raise ConfsegError(f"subnet.kernel: {kernel} is even, which would shrink the scores; use 1, 3 or 5")
        if norm not in ("none", "batch"):
            raise ConfsegError(f"subnet.norm: {norm!r} is neither 'none' nor 'batch'")
        self.num_outputs, self.hidden, self.channels = num_outputs, hidden, channels
        self.stages: Tuple[int, ...] = tuple(stages)
        padding = dilation * (kernel - 1) // 2
        with self.name_scope():
            self.body = nn.HybridSequential()
            for _ in range(hidden):
                self.body.add(nn.Conv2D(channels, kernel, padding=padding, dilation=dilation, use_bias=norm == "none"))
                if norm == "batch":
                    self.body.add(nn.BatchNorm())
                self.body.add(nn.Activation("relu"))
            # a small last layer starts training at uniform scores, whatever the features' scale
            self.classifier = nn.Conv2D(
                num_outputs, kernel, padding=padding, dilation=dilation, weight_initializer=mx.init.Normal(0.01)
            )

    def inputs(self, features: Sequence) -> List:
        """What the subnet is called with: the feature maps of its stages, and the last one, which gives the size.

        Raises ConfsegError for a stage that the encoder does not have.
        """
        return select_stages(features, self.stages)

    def hybrid_forward(self, F, *inputs):
        return self.classifier(self.body(join_stages(F, *inputs)))


def select_stages(features: Sequence, stages: Tuple[int, ...]) -> List:
    """The maps of `stages`, and the last one, which gives the size; ConfsegError for a stage that is not there."""
    absent = [stage for stage in stages if not -len(features) <= stage < len(features)]
    if absent:
        raise ConfsegError(f"subnet.stages: the encoder has {len(features)} stages, there is no {absent[0]}")
    if stages == (-1,):
        return [features[-1]]
    return [*(features[stage] for stage in stages), features[-1]]


def join_stages(F, *inputs):
    """What the first convolution reads: (N, C_s, h_s, w_s) per stage and the last map -> (N, sum of C_s, h, w)."""
    if len(inputs) == 1:
        return inputs[0]
    resized = [F.contrib.BilinearResize2D(f, inputs[-1], mode="like", align_corners=False) for f in inputs[:-1]]
    return F.concat(*resized, dim=1)
