"""What the tests of the losses share: how a loss is run, and the paper's written out for one pixel."""

import numpy as np

from gluon_confseg.backend import mx

IGNORE = 255
COUNTS = np.array([[60, 10, 10], [4, 10, 2], [1, 0, 3]])  # 80, 16 and 4 % of the pixels


def confusion(num_classes, seed=0):
    """A row-normalised confusion matrix with a strong diagonal."""
    counts = np.random.default_rng(seed).random((num_classes, num_classes)) + num_classes * np.eye(num_classes)
    return counts / counts.sum(axis=1, keepdims=True)


def run(loss, logits, label, dtype="float32", head=None):
    """(loss per sample, gradient of their sum, or of their sum weighted by `head`), as numpy."""
    loss.initialize(force_reinit=True)
    x = mx.nd.array(logits, dtype=dtype)
    x.attach_grad()
    with mx.autograd.record():
        value = loss(x, mx.nd.array(label))
    value.backward() if head is None else value.backward(mx.nd.array(head))
    return value.asnumpy(), x.grad.asnumpy()


def log_softmax(phi):
    return phi - phi.max() - np.log(np.exp(phi - phi.max()).sum())


def plain_loss(phi, i, weights, lam):
    """Section 3.2, one pixel, written out; for moderate logits."""
    q = np.exp(phi) / np.exp(phi).sum()
    others = [j for j in range(len(phi)) if j != i]
    return -weights[i, i] * np.log(q[i]) - lam * sum(weights[i, j] * np.log(1 - q[j]) for j in others)


def equation_4(phi, i, weights, lam):
    """Eq. 4 as the paper prints it, one pixel; for moderate logits."""
    q = np.exp(phi) / np.exp(phi).sum()
    inner = weights[i, i] + lam * sum(weights[i, j] * q[j] / (q[j] - 1) for j in range(len(phi)) if j != i)
    gradient = q * inner - lam * q / (q - 1) * weights[i]
    gradient[i] = q[i] * inner - weights[i, i]
    return gradient
