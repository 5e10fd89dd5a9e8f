"""What the tests of the networks share: images, equality, an encoder whose weights a seed decides."""

import numpy as np

from gluon_confseg.backend import mx
from gluon_confseg.nn import get_encoder

SIZES = [(32, 48), (33, 47), (41, 40), (7, 1)]


def image(height, width, seed=0, batch=1):
    return mx.nd.array(np.random.default_rng(seed).normal(size=(batch, 3, height, width)))


def equal(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got.asnumpy(), expected.asnumpy(), rtol=tolerance, atol=tolerance)


def seeded_encoder(name="small", seed=0, **options):
    mx.random.seed(seed)
    return get_encoder(name, **options)
