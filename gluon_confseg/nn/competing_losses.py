"""Losses against class imbalance that the paper's is compared with: focal, OHEM, loss max-pooling, logit adjustment.

All are cross-entropies - log q_i (i: true class, q = softmax(logits)) that weight the pixels, or shift the classes, by
another rule; those with fixed class weights are `PixelCrossEntropy` with weights of class_weights.py. Shapes, types and
the ignore label are those of losses.py.
"""

from typing import Sequence

import numpy as np

from ..errors import ConfsegError
from .losses import IGNORE_LABEL, PixelLoss

_TINY = 1e-30  # float32, with room to divide by: a/_TINY is finite for any number of pixels a
MIN_P = 1.1  # of loss max-pooling


class FocalLoss(PixelLoss):
    """- (1 - q_i)^gamma log q_i (Lin et al. 2017, Eq. 4), the mean over the sample's valid pixels.

    Without their class weights alpha. They divide by the number of object anchors, which a label map does not have.

    Parameters
    ----------
    num_classes : K
    gamma : at least 0 (published: 2); 0 is cross-entropy
    ignore_label : pixels with this label do not count, in the numerator or the denominator

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,).
    Raises ConfsegError for a gamma that is negative or not finite.
    """

    def __init__(self, num_classes: int, *, gamma: float = 2.0, ignore_label: int = IGNORE_LABEL):
        if not (np.isfinite(gamma) and gamma >= 0):
            raise ConfsegError(f"focal loss gamma: wants a finite number of at least 0, got {gamma}")
        super().__init__(num_classes, ignore_label)
        self._gamma = float(gamma)

    def _pixels(self, F, logits, label, ones_in, ones_out):
        entropy = self._cross_entropy(F, logits, label, ones_in, ones_out)
        # 1 - q from the logarithm, which is exact near q = 1; above 0, where a power below 1 has no derivative
        wrong = F.maximum(-F.expm1(-entropy), F.ones_like(entropy) * _TINY)
        return wrong**self._gamma * entropy


class OhemCrossEntropy(PixelLoss):
    """Online hard example mining: the mean of - log q_i over the sample's hard pixels, the others get no gradient.

    Hard are the pixels with q_i < threshold; where these are fewer than the share `min_kept` of the sample's valid
    pixels (rounded up), the hardest pixels of that number. Where the last of them ties with others, these share its
    place, so that the value is the mean over exactly that number.

    After Shrivastava et al. 2016, for boxes. The defaults for pixels are those of public code, not of a paper: 0.7 is
    common, 1/16 is CoinCheung/BiSeNet's; mmsegmentation keeps 100000 pixels of each crop, about a fifth.

    Parameters
    ----------
    num_classes : K
    threshold : above 0, at most 1
    min_kept : above 0, at most 1
    ignore_label : pixels with this label are neither kept nor counted

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,).
    Raises ConfsegError for a threshold or min_kept outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: float = 0.7,
        min_kept: float = 1 / 16,
        ignore_label: int = IGNORE_LABEL,
    ):
        for name, value in (("threshold", threshold), ("min_kept", min_kept)):
            if not 0 < value <= 1:
                raise ConfsegError(f"OHEM {name}: wants a number above 0 and at most 1, got {value}")
        super().__init__(num_classes, ignore_label)
        self._limit, self._min_kept = -float(np.log(threshold)), float(min_kept)

    def _pixels(self, F, logits, label, ones_in, ones_out):
        return self._cross_entropy(F, logits, label, ones_in, ones_out)

    def _pool(self, F, pixels, valid):
        weights = self._kept(F, F.BlockGrad(pixels), valid)
        kept = F.sum(weights, axis=1)
        return F.sum(weights * pixels, axis=1) / F.maximum(kept, F.ones_like(kept))

    def _kept(self, F, losses, valid):
        """(N, P): 1 for a kept pixel, 0 for others, a fraction for those that tie for the last places."""
        least = F.ceil(self._min_kept * F.sum(valid, axis=1, keepdims=True))
        hard = losses > self._limit
        # the smallest of the `least` largest losses; pixels that are not valid come last
        ordered = F.sort(F.where(valid, losses, -F.ones_like(losses)), axis=1, is_ascend=False)
        last = F.pick(ordered, F.maximum(least - 1, F.zeros_like(least)), axis=1, keepdims=True)
        above = F.broadcast_greater(losses, last) * valid
        tied = F.broadcast_equal(losses, last) * valid
        places = least - F.sum(above, axis=1, keepdims=True)
        ties = F.sum(tied, axis=1, keepdims=True)
        hardest = above + F.broadcast_mul(tied, places / F.maximum(ties, F.ones_like(ties)))
        enough = F.broadcast_greater_equal(F.sum(hard, axis=1, keepdims=True), least)
        return F.broadcast_mul(hard, enough) + F.broadcast_mul(hardest, 1 - enough)


class LossMaxPooling(PixelLoss):
    """The paper's rival LMP (Rota Bulo, Neuhold and Kontschieder 2017, section 3), with l_u = - log q_i of pixel u:

        max_w sum_u w_u l_u   subject to   ||w||_p <= n^(-1/p'),   0 <= w_u <= tau = n^(-1/p') m^(-1/p)

    over the sample's n valid pixels, p' = p / (p - 1), m = support * n. The uniform w = 1/n is feasible, so the value
    is at least the mean of l. At the optimum w_u = min(tau, c l_u^(1/(p-1))): with a = l^p' and t = (c / tau)^p this is
    tau min(1, t a)^(1/p), where sum_u min(1, t a_u) = m. The left side is the smallest of the lines (number of pixels
    above u) + t (sum of a over the rest), so t is the largest of their crossings with m, exact after one sort. By the
    envelope theorem w is constant to autograd.

    p = 1.7 and m = 25 % are what they recommend, to our
    knowledge: quoted from memory (a public reimplementation has 1.7 and 30 %).

    Parameters
    ----------
    num_classes : K
    p : at least 1.1 (below, powers leave float32; p -> 1 is the mean of the m largest); inf is cross-entropy
    support : above 0, at most 1; 1 is cross-entropy
    ignore_label : pixels with this label do not count

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,).
    Raises ConfsegError for a p or support outside its range.
    """

    def __init__(self, num_classes: int, *, p: float = 1.7, support: float = 0.25, ignore_label: int = IGNORE_LABEL):
        if not p >= MIN_P:
            raise ConfsegError(f"loss max-pooling p: wants a number of at least {MIN_P}, got {p}")
        if not 0 < support <= 1:
            raise ConfsegError(f"loss max-pooling support: wants a number above 0 and at most 1, got {support}")
        super().__init__(num_classes, ignore_label)
        self._p, self._support = float(p), float(support)

    def _pixels(self, F, logits, label, ones_in, ones_out):
        return self._cross_entropy(F, logits, label, ones_in, ones_out)

    def _pool(self, F, pixels, valid):
        return super()._pool(F, self._weights(F, F.BlockGrad(pixels), valid) * pixels, valid)

    def _weights(self, F, losses, valid):
        """n w, (N, P)."""
        largest = F.max(losses, axis=1, keepdims=True)
        relative = F.broadcast_div(losses, F.maximum(largest, F.ones_like(largest) * _TINY))
        powers = relative ** (1 / (1 - 1 / self._p))
        ordered = F.sort(powers, axis=1, is_ascend=True)  # those that are not valid are 0 and first
        sums = F.maximum(F.cumsum(ordered, axis=1), F.ones_like(ordered) * _TINY)
        above = F.reverse(F.cumsum(F.ones_like(ordered), axis=1), axis=1) - 1
        supported = self._support * F.sum(valid, axis=1, keepdims=True)
        slope = F.max(F.broadcast_sub(supported, above) / sums, axis=1, keepdims=True)
        share = F.broadcast_mul(powers, slope)
        return F.minimum(share, F.ones_like(share)) ** (1 / self._p) * self._support ** (-1 / self._p)


class LogitAdjustedCrossEntropy(PixelLoss):
    """Cross-entropy of logits + shift, shift = tau log(prior) (Menon et al. 2021): the mean over valid pixels.

    The adjustment is in training only: the network's own logits then estimate the balanced posterior.

    Parameters
    ----------
    shift : (K,) finite numbers to add to the logits, `class_weights.log_prior` times tau
    ignore_label : pixels with this label do not count, in the numerator or the denominator

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,).
    Raises ConfsegError for a shift that is no vector of finite numbers.
    """

    def __init__(self, shift: Sequence[float], *, ignore_label: int = IGNORE_LABEL):
        super().__init__(np.size(shift), ignore_label)
        self._add_constants(shift)
        with self.name_scope():
            self.identity = self.params.get_constant("identity", np.eye(np.size(shift), dtype="float32")[:, :, None])

    def _constants(self, weights):
        shift = np.array(weights, dtype="float32")
        if shift.shape != (self._classes,) or not len(shift) or not np.isfinite(shift).all():
            raise ConfsegError(f"logit adjustment: wants one finite number per class, got {shift}")
        return {"shift": shift}

    def _pixels(self, F, logits, label, ones_in, ones_out, shift, identity):
        # a convolution adds its bias in a sixth of the time of broadcast_add
        adjusted = F.Convolution(logits, identity, shift, kernel=(1,), num_filter=self._classes)
        return self._cross_entropy(F, adjusted, label, ones_in, ones_out)
