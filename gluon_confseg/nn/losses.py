"""Losses over pixels: cross-entropy with an ignore label, and the paper's confusion-weighted cross-entropy.

Each returns one value per sample, like every Gluon loss: the mean over the sample's valid pixels, 0 where it has none.

A pixel's loss depends on that pixel's logits alone. So the paper's takes its gradient strip by strip of pixels, in the
forward pass, by autograd: what autograd keeps for a strip is freed before the next one, and only the gradient stays.
Cross-entropy, which keeps less, is faster whole.

Sums over classes are convolutions with ones and the exponential is an ELU: on CPU these go through oneDNN and take a
tenth of the time of `sum`, `exp` and `softmax` on an inner axis; the maximum is that of halves (tools/benchmarks).
"""

from typing import Optional, Sequence

import numpy as np

from ..backend import mx
from ..errors import ConfsegError

autograd, nd = mx.autograd, mx.nd

IGNORE_LABEL = 255
_NEVER = 1e30  # subtracted from a logit that must not be the largest; finite, so that its gradient is 0 and not NaN
_STRIP = 2**18  # logits: 1 MB in each of the arrays that autograd keeps; smaller ones leave the time to Python


class PixelLoss(mx.gluon.HybridBlock):
    """What the losses share: shapes, the ignore label, operations over the class axis, the mean over valid pixels.

    A loss defines `_pixels`, the loss of each pixel, and may define `_pool`, which makes a sample's value of them. One
    with weights defines `_constants`, which checks them and makes arrays of them that `_pixels` is given.
    """

    def __init__(self, num_classes: int, ignore_label: int):
        super().__init__()
        self._classes, self._ignore = num_classes, ignore_label
        with self.name_scope():
            self.ones_in = self.params.get_constant("ones_in", np.ones((1, num_classes, 1), "float32"))
            self.ones_out = self.params.get_constant("ones_out", np.ones((num_classes, 1, 1), "float32"))

    def set_weights(self, weights) -> None:
        """Other weights, of the same shape, from the next call on; a hybridized graph stays.

        Raises ConfsegError for weights that the constructor would not take.
        """
        for name, value in self._constants(weights).items():
            getattr(self, name).set_data(mx.nd.array(value))

    def _constants(self, weights):
        """Arrays by name, from the weights."""
        raise ConfsegError(f"{type(self).__name__} has no weights to set")

    def _add_constants(self, weights) -> None:
        with self.name_scope():
            for name, value in self._constants(weights).items():
                setattr(self, name, self.params.get_constant(name, value))

    def hybrid_forward(self, F, logits, label, **constants):
        # (N, K, ...) -> (N, K, P), (N, ...) -> (N, P)
        logits = F.cast(F.reshape(logits, shape=(0, 0, -1)), dtype="float32")
        label = F.cast(F.reshape(label, shape=(0, -1)), dtype="float32")
        valid = label != self._ignore
        pixels = self._pixels(F, logits, label * valid, **constants)
        return self._pool(F, F.where(valid, pixels, F.zeros_like(pixels)), valid)

    def _pool(self, F, pixels, valid):
        """(N, P) losses, 0 where the pixel is not valid, and (N, P) 0 or 1 -> (N,): the mean over valid pixels."""
        count = F.sum(valid, axis=1)
        return F.sum(pixels, axis=1) / F.maximum(count, F.ones_like(count))

    def _cross_entropy(self, F, logits, label, ones_in, ones_out):
        """- log q_i, (N, P); at least 0."""
        shifted, _ = self._below_max(F, logits, ones_out)
        log_sum = F.log(self._sum(F, self._exp(F, shifted), ones_in))
        return F.squeeze(log_sum, axis=1) - F.pick(shifted, label, axis=1)

    def _sum(self, F, x, ones_in):
        """(N, K, P) -> (N, 1, P)."""
        return F.Convolution(x, ones_in, kernel=(1,), num_filter=1, no_bias=True)

    def _spread(self, F, x, ones_out):
        """(N, 1, P) -> (N, K, P)."""
        return F.Convolution(x, ones_out, kernel=(1,), num_filter=self._classes, no_bias=True)

    def _below_max(self, F, x, ones_out):
        """x - max over classes, and that maximum (N, 1, P), a constant to autograd."""
        largest, classes = F.BlockGrad(x), self._classes
        while classes > 1:  # the two halves share the middle one where the number is odd
            half = (classes + 1) // 2
            first = F.slice_axis(largest, axis=1, begin=0, end=half)
            largest = F.maximum(first, F.slice_axis(largest, axis=1, begin=classes - half, end=classes))
            classes = half
        largest = F.BlockGrad(largest)
        return x - self._spread(F, largest, ones_out), largest

    @staticmethod
    def _exp(F, x):
        """exp(x) for x <= 0, to 1e-7 absolute: enough where the largest is 1 and the sum is what counts."""
        return F.LeakyReLU(x, act_type="elu", slope=1.0) + 1


def _with_gradient(value, x, gradient):
    """`value` (N,) to whoever reads it; to autograd a function of x (N, K, ...) with that gradient (N, K, P).

    What is recorded is the product of x and its gradient, less itself: exactly 0.
    """
    rows = nd.batch_dot(gradient.reshape((-3, 1, -1)), x.reshape((-3, -1, 1)))  # by sample and class: small products
    product = rows.reshape((len(value), -1)).sum(axis=1)
    return value + (product - product.detach())


class PixelCrossEntropy(PixelLoss):
    """- w_i log q_i for true class i, q = softmax(logits).

    Parameters
    ----------
    num_classes : K
    class_weights : (K,) weights w, all 1 by default
    ignore_label : pixels with this label do not count, in the numerator or the denominator

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,).
    """

    def __init__(
        self, num_classes: int, *, class_weights: Optional[Sequence[float]] = None, ignore_label: int = IGNORE_LABEL
    ):
        super().__init__(num_classes, ignore_label)
        self._add_constants(np.ones(num_classes) if class_weights is None else class_weights)

    def _constants(self, weights):
        weights = np.asarray(weights)
        if weights.shape != (self._classes,) or not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ConfsegError(f"class weights: wants {self._classes} finite numbers of at least 0, got {weights}")
        return {"class_weights": weights.astype("float32")}

    def _pixels(self, F, logits, label, ones_in, ones_out, class_weights):
        return F.take(class_weights, label) * self._cross_entropy(F, logits, label, ones_in, ones_out)


class ConfusionCrossEntropy(PixelLoss):
    """The paper's improved cross-entropy (section 3.2), for a pixel of true class i with q = softmax(logits):

        L = - c_ii log q_i  -  lam * sum_{j != i} c_ij log(1 - q_j)

    The paper prints Eq. 2 and Eq. 3 with the opposite sign before the second term, which would drive wrong classes
    *up*; its Eq. 4 is the gradient of the form above, which autograd supplies and the tests check. Both are finite for
    any finite logits: log(1 - q_t) of a class with q_t > 1/2, the only one that can round to log(0), is taken as
    logsumexp over the others minus logsumexp over all.

    Parameters
    ----------
    weights : (K, K) row-normalised confusion matrix C, rows = truth (`ConfusionMatrix.row_normalized()`); for a group's
        subnet that of the merged counts (`ConfusionMatrix.merged(group)`)
    lam : weight of the second term (paper: 5)
    ignore_label : pixels with this label do not count, in the numerator or the denominator
    diagonal : "confusion" takes c_ii from the matrix (the paper), "one" takes c_ii = 1, which does not starve a class
        that the baseline hardly ever gets right

    `loss(logits, label)`: (N, K, H, W) and (N, H, W), or (N, K) and (N,); float32 (N,). Recorded by autograd, it works
    in strips, but not in the graph of a hybridized block around it, where it is given symbols instead of arrays.
    Raises ConfsegError for weights that are not square, not finite or negative.
    """

    def __init__(
        self,
        weights: Sequence[Sequence[float]],
        *,
        lam: float = 5.0,
        ignore_label: int = IGNORE_LABEL,
        diagonal: str = "confusion",
    ):
        weights = _square(weights)
        if not (np.isfinite(lam) and lam >= 0):
            raise ConfsegError(f"loss lam: wants a finite number of at least 0, got {lam}")
        if diagonal not in ("confusion", "one"):
            raise ConfsegError(f"loss diagonal: {diagonal!r} is neither 'confusion' nor 'one'")
        super().__init__(len(weights), ignore_label)
        self._lam, self._diagonal = lam, diagonal
        self._add_constants(weights)

    def _constants(self, weights):
        weights = _square(weights)
        if len(weights) != self._classes:
            raise ConfsegError(f"loss weights: wants a matrix of {self._classes} classes, got {len(weights)}")
        right = np.diag(weights) if self._diagonal == "confusion" else np.ones(len(weights), "float32")
        return {"right": right, "wrong": self._lam * weights * (1 - np.eye(len(weights), dtype="float32"))}

    def forward(self, logits, label):
        if not (isinstance(logits, nd.NDArray) and autograd.is_recording()):
            return super().forward(logits, label)
        logits, label = logits.astype("float32", copy=False), label.astype("float32", copy=False)
        with autograd.pause(train_mode=autograd.is_training()):
            value, gradient = self._in_strips(logits.reshape((0, 0, -1)), label.reshape((0, -1)))
        return _with_gradient(value, logits, gradient)

    def _in_strips(self, logits, label):
        """(N, K, P) and (N, P) to values (N,) and their gradient (N, K, P)."""
        (samples, classes, count), ctx = logits.shape, logits.ctx
        strips = -(-logits.size // _STRIP)
        length = -(-count // strips)
        total = nd.maximum((label != self._ignore).sum(axis=1), 1)
        value, gradient, strip = nd.zeros(samples, ctx=ctx), nd.empty(logits.shape, ctx=ctx), None
        for start in range(0, count, length):
            stop = min(start + length, count)
            if strip is None or strip.shape[2] != stop - start:  # one buffer: none is begun before the last is done
                strip = nd.empty((samples, classes, stop - start), ctx=ctx)
                strip.attach_grad()
            nd.slice_axis(logits, axis=2, begin=start, end=stop, out=strip)
            part = nd.slice_axis(label, axis=1, begin=start, end=stop)
            share = (part != self._ignore).sum(axis=1) / total
            with autograd.record():
                mean = super().forward(strip, part)
            mean.backward(share)
            value = value + share * mean
            gradient[:, :, start:stop] = strip.grad
        return value, gradient

    def _pixels(self, F, logits, label, ones_in, ones_out, right, wrong):
        penalty = F.transpose(F.take(wrong, label), axes=(0, 2, 1))  # lam c_ij, (N, K, P)
        shifted, largest = self._below_max(F, logits, ones_out)
        powers = self._exp(F, shifted)
        total = self._sum(F, powers, ones_in)
        log_total = F.log(total)
        q = powers * self._spread(F, 1 / total, ones_out)
        log_true = F.pick(shifted, label, axis=1) - F.squeeze(log_total, axis=1)

        top = F.BlockGrad(q > 0.5)
        log_not = F.log(q * (top - 1) + 1)  # 0 at the top class, which comes next; two thirds of log1p's time
        # from the logits, not from `shifted`, whose rounding at 1e4 is 1e-3
        rest, second = self._below_max(F, logits - top * _NEVER, ones_out)
        log_not_top = F.log(self._sum(F, self._exp(F, rest), ones_in)) + (second - largest) - log_total

        penalties = self._sum(F, penalty * log_not, ones_in) + self._sum(F, penalty * top, ones_in) * log_not_top
        return -F.take(right, label) * log_true - F.squeeze(penalties, axis=1)


def _square(weights: Sequence[Sequence[float]]) -> np.ndarray:
    weights = np.array(weights, dtype="float32")
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or len(weights) < 2:
        raise ConfsegError(f"loss weights: wants a square matrix of at least 2 classes, got shape {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ConfsegError("loss weights: wants finite numbers of at least 0; row-normalise the counts first")
    return weights
