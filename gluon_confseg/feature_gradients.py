"""The gradients that heads send into the encoder: taken head by head, measured, scaled where asked, added up."""

from typing import Dict, List, Optional, Sequence

from .backend import mx

autograd, nd = mx.autograd, mx.nd

TINY = 1e-30  # keeps a ratio of norms finite where no pixel is labelled


class FeatureGradients:
    """Of the heads, one after another, on a part of a batch whose features were recorded by autograd.

    norms : per head, (1,): the norm of its gradient into the features that it reads, as it is sent on
    """

    def __init__(self) -> None:
        self.norms: List[nd.NDArray] = []
        self._features: Dict[int, nd.NDArray] = {}
        self._sums: Dict[int, nd.NDArray] = {}

    @staticmethod
    def leaves(features: Sequence[nd.NDArray]) -> List[nd.NDArray]:
        """The features for a head to read: autograd stops there, and leaves their gradients."""
        leaves = [feature.detach() for feature in features]
        for leaf in leaves:
            leaf.attach_grad()
        return leaves

    def add(self, features: Sequence[nd.NDArray], leaves: Sequence[nd.NDArray], pull: Optional[float]) -> None:
        """Take what a head left in `leaves(features)`; with `pull`, at that norm relative to the first head's."""
        gradients = [leaf.grad for leaf in leaves]
        norm = nd.sqrt(nd.add_n(*(nd.sum(nd.square(gradient)).reshape((1,)) for gradient in gradients)))
        if pull is not None:
            factor = pull * self.norms[0] / nd.maximum(norm, TINY)
            gradients = [nd.broadcast_mul(g, factor.reshape((1,) * g.ndim)) for g in gradients]
            norm = norm * factor
        self.norms.append(norm)
        for feature, gradient in zip(features, gradients):
            known = self._sums.get(id(feature))
            self._features[id(feature)] = feature
            self._sums[id(feature)] = gradient if known is None else known + gradient

    def backward(self) -> None:
        """On into the encoder."""
        autograd.backward(list(self._features.values()), list(self._sums.values()))
