"""Trained subnets run together: first hidden convolutions that read the same features are one convolution."""

from typing import Dict, List, Sequence, Tuple

import numpy as np

from ..backend import mx, settle
from .subnet import Subnet, join_stages, select_stages

nn = mx.gluon.nn


class MergedSubnets(mx.gluon.HybridBlock):
    """For inference: `merged(*features)`, the encoder's feature maps, gives the logits of each subnet, in order.

    Subnets that read the same stages with hidden convolutions of the same kernel and dilation share one convolution,
    whose filters are all of theirs; its output is cut into their parts, which go on by themselves. Anything else in
    `subnets` runs as it is. The shared convolutions hold copies, made by `copy_values`: what is trained afterwards is
    not seen.

    Parameters
    ----------
    subnets : blocks that are called with `subnet.inputs(features)`; at least one
    """

    def __init__(self, subnets: Sequence[mx.gluon.HybridBlock]):
        super().__init__()
        self.num_outputs: Tuple[int, ...] = tuple(subnet.num_outputs for subnet in subnets)
        members: Dict[tuple, List[int]] = {}
        for index, subnet in enumerate(subnets):
            members.setdefault(_shared_shape(subnet, index), []).append(index)
        self._members: Tuple[Tuple[int, ...], ...] = tuple(map(tuple, members.values()))
        self._cuts: Dict[int, Tuple[int, int]] = {}
        self._stages = tuple(subnets[indices[0]].stages for indices in self._shared())
        with self.name_scope():
            self.shared = nn.HybridSequential()
            for indices in self._shared():
                ends = np.cumsum([subnets[index].channels for index in indices]).tolist()
                self._cuts.update(zip(indices, zip([0, *ends], ends)))
                self.shared.add(_convolution(subnets[indices[0]], ends[-1]))
            self.tails = nn.HybridSequential()
            self.tails.add(*(_tail(subnet) if i in self._cuts else subnet for i, subnet in enumerate(subnets)))

    def _shared(self) -> List[Tuple[int, ...]]:
        return [indices for indices in self._members if len(indices) > 1]

    def copy_values(self, subnets: Sequence[mx.gluon.HybridBlock]) -> None:
        """Take over what the same subnets have learned; they must be initialised, with all shapes known."""
        settle()
        for convolution, indices in zip(self.shared, self._shared()):
            firsts = [subnets[index].body[0] for index in indices]
            _concatenate(convolution.weight, [first.weight for first in firsts])
            if convolution.bias is not None:
                _concatenate(convolution.bias, [first.bias for first in firsts])

    def hybridize(self, active: bool = True, **options) -> None:
        """Of the parts only: called by itself, one graph of the whole would warn of stages that no subnet reads."""
        self.shared.hybridize(active, **options)
        self.tails.hybridize(active, **options)

    def hybrid_forward(self, F, *features):
        hidden = {}
        for convolution, stages, indices in zip(self.shared, self._stages, self._shared()):
            # (N, C, h, w) -> (N, sum of channels, h, w)
            shared = convolution(join_stages(F, *select_stages(features, stages)))
            if convolution.bias is not None:  # no BatchNorm follows; before the cut, so that backends can fuse the two
                shared = F.Activation(shared, act_type="relu")
            hidden.update(dict.fromkeys(indices, shared))
        logits = []
        for index, tail in enumerate(self.tails):
            if index not in self._cuts:
                logits.append(tail(*tail.inputs(features)))
                continue
            begin, end = self._cuts[index]
            logits.append(tail(F.slice_axis(hidden[index], axis=1, begin=begin, end=end)))
        return logits


def _shared_shape(subnet: mx.gluon.HybridBlock, index: int) -> tuple:
    """What subnets must have in common to share a convolution; a key of its own for one that cannot."""
    if not isinstance(subnet, Subnet) or not subnet.hidden:
        return (index,)
    options = subnet.body[0]._kwargs
    return subnet.stages, options["kernel"], options["dilate"], options["no_bias"]


def _convolution(subnet: Subnet, channels: int) -> nn.Conv2D:
    """Like the first one of `subnet`, with so many filters."""
    options = subnet.body[0]._kwargs
    kernel, padding, dilation = options["kernel"], options["pad"], options["dilate"]
    return nn.Conv2D(channels, kernel, padding=padding, dilation=dilation, use_bias=not options["no_bias"])


def _tail(subnet: Subnet) -> nn.HybridSequential:
    """What follows the first convolution, and its ReLU where no BatchNorm stands between."""
    done = 1 if subnet.body[0].bias is None else 2
    tail = nn.HybridSequential()
    tail.add(*list(subnet.body)[done:], subnet.classifier)
    return tail


def _concatenate(target: mx.gluon.Parameter, parts: Sequence[mx.gluon.Parameter]) -> None:
    contexts = parts[0].list_ctx()
    value = mx.nd.concat(*(part.data(contexts[0]) for part in parts), dim=0)
    target.shape = value.shape
    target.initialize(init=mx.init.Zero(), ctx=contexts, force_reinit=True)
    target.set_data(value)
