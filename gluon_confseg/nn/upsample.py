"""Bilinear upsampling by a whole factor: in a graph for any image size, and faster for sizes that come again."""

from typing import Dict, Tuple

import numpy as np

from ..backend import mx


class Upsample(mx.gluon.HybridBlock):
    """Bilinear upsampling (half-pixel centres) by `factor`, cropped to a reference's height and width.

    Called as `upsample(x, like)` with x (N, K, h, w) and like (N, *, H, W), H <= factor h, W <= factor w; gives
    (N, K, H, W). Feature (i, j) always stands for the same pixels, at every image size, so what is learned on crops
    holds on whole images. It is a fixed depthwise transposed convolution on an edge-padded input: the values of
    `BilinearResize2D(align_corners=False)`, at a fraction of its time on CPU (tools/benchmarks).
    """

    def __init__(self, channels: int, factor: int):
        super().__init__()
        self._channels, self._factor = channels, factor
        self._size = size = 2 * factor - factor % 2  # an odd factor has pixels on the features' centres
        ramp = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
        kernel = np.broadcast_to(np.outer(ramp, ramp), (channels, 1, size, size)).astype("float32")
        if factor > 1:
            with self.name_scope():
                self.kernel = self.params.get_constant("kernel", kernel)

    def hybrid_forward(self, F, x, like, kernel=None):
        factor = self._factor
        if factor > 1:
            # (N, K, h, w) -> (N, K, h + 2, w + 2) -> (N, K, factor h, factor w)
            x = F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))
            x = F.Deconvolution(
                x,
                kernel,
                kernel=(self._size, self._size),
                stride=(factor, factor),
                pad=(3 * factor // 2, 3 * factor // 2),
                num_filter=self._channels,
                num_group=self._channels,
                no_bias=True,
            )
        return F.slice_like(x, like, axes=(2, 3))


class MatrixUpsample(mx.gluon.Block):
    """`Upsample` of arrays (not symbols) by two matrix products, for sizes that come again, as in training.

    Called as `upsample(x, (H, W))` with x (N, K, h, w) float32, H <= factor h, W <= factor w; gives (N, K, H, W). On a
    CPU, forward and backward take a third to two fifths of Upsample's time on training crops (tools/benchmarks);
    as a pixel costs h multiply-adds, not on large images. Keeps the matrices of each size.
    """

    def __init__(self, factor: int):
        super().__init__()
        self._factor = factor
        self._matrices: Dict[Tuple[int, int, mx.Context], mx.nd.NDArray] = {}

    def forward(self, x, size):
        if self._factor == 1:
            return x[:, :, : size[0], : size[1]]
        number, channels, height, width = x.shape
        across = mx.nd.dot(x, self._matrix(width, size[1], x.context), transpose_b=True)
        across = across.reshape((-1, height, size[1]))
        down = self._matrix(height, size[0], x.context).expand_dims(0)
        down = down.broadcast_to((number * channels, size[0], height))
        return mx.nd.batch_dot(down, across).reshape((number, channels, *size))

    def _matrix(self, features: int, pixels: int, device: mx.Context) -> mx.nd.NDArray:
        """(pixels, features): what each feature along an axis contributes to each pixel; rows sum to 1."""
        key = features, pixels, device
        if key not in self._matrices:
            position = (np.arange(pixels) + 0.5) / self._factor - 0.5
            position = np.clip(position, 0, features - 1)  # beyond the outermost centres: their values
            weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(features)))
            self._matrices[key] = mx.nd.array(weights, ctx=device, dtype="float32")
        return self._matrices[key]
