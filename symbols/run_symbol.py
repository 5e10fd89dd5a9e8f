"""Label an image with a network that `confseg export --format symbol` wrote.

    python run_symbol.py FOLDER IMAGE OUTPUT

Needs MXNet 1.9.1 and NumPy < 2 (and, from Python 3.12 on, setuptools, for MXNet's sake); not the package that trained
the network. FOLDER holds network-symbol.json, network.params and network.json, which says what goes in and what comes
out. IMAGE is a picture file, or a .npy file of uint8 (H, W, 3) RGB. OUTPUT is a .npy file, uint8 (H, W), or a .png file
with the classes' colours as its palette; their values are indices into "classes" of network.json.

As a library: `Network(folder).label_map(image)`, or `.run(batch)` for what the graph itself takes and gives.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

for name, kind in {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}.items():
    if name not in vars(np):
        setattr(np, name, kind)  # NumPy 1.24 removed these, MXNet 1.9.1 uses them

import mxnet as mx  # noqa: E402

AREA, BILINEAR = 3, 1  # OpenCV's numbers, which mx.image.imresize takes


class Network:
    """An exported network; `contract` is its network.json."""

    def __init__(self, folder, device=None):
        folder = Path(folder)
        self.contract = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        self._device = device or mx.cpu()
        symbol = mx.sym.load(str(folder / "network-symbol.json"))
        # what SymbolBlock.imports does, which warns because it does not know the input's type
        self._block = mx.gluon.SymbolBlock(symbol, mx.sym.var(self.contract["input"]["name"], dtype="float32"))
        self._block.collect_params().load(str(folder / "network.params"), ctx=self._device)

    def run(self, batch):
        """What the graph takes, float32 (N, 3, H, W), -> what it gives, as NumPy arrays."""
        return self._block(mx.nd.array(batch, ctx=self._device)).asnumpy()

    def label_map(self, image):
        """RGB uint8 (H, W, 3) -> uint8 (H, W), indices into contract["classes"]."""
        size = image.shape[:2]
        output = mx.nd.array(self.run(self._prepare(image)), ctx=self._device)
        if self.contract["output"]["name"] == "labels":
            return _nearest(output[0].asnumpy().astype(np.uint8), size)
        if output.shape[2:] != size:
            output = mx.nd.contrib.BilinearResize2D(output, height=size[0], width=size[1], align_corners=False)
        return output.argmax(axis=1)[0].asnumpy().astype(np.uint8)

    def _prepare(self, image):
        """RGB uint8 (H, W, 3) -> float32 (1, 3, h, w) at the network's working resolution."""
        wanted = self.contract["input"]
        if wanted["scale"] != 1:
            height, width = (max(1, round(side * wanted["scale"])) for side in image.shape[:2])
            how = AREA if wanted["scale"] < 1 else BILINEAR
            image = mx.image.imresize(mx.nd.array(image, dtype="uint8"), width, height, how).asnumpy()
        if wanted["size"] not in ("dynamic", list(image.shape[:2])):
            raise ValueError(f"this network takes images of {wanted['size']} (height, width), not {image.shape[:2]}")
        batch = np.float32(image.transpose(2, 0, 1)[None])
        if wanted["normalization"] != "inside":
            mean, std = (np.array(wanted["normalization"][key])[None, :, None, None] for key in ("mean", "std"))
            batch = batch * np.float32(1 / (255 * std)) - np.float32(mean / std)
        return batch


def read_image(path):
    """RGB uint8 (H, W, 3) of a picture file or a .npy file."""
    return np.load(path) if str(path).endswith(".npy") else mx.image.imread(str(path)).asnumpy()


def write_labels(path, labels, colors):
    """uint8 (H, W) -> a .npy file, or a .png file with `colors` as its palette."""
    if str(path).endswith(".npy"):
        np.save(path, labels)
        return
    height, width = labels.shape
    rows = np.insert(labels, 0, 0, axis=1).tobytes()  # each row starts with its filter, 0: none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits, indices into the palette
        (b"PLTE", np.uint8(colors).tobytes()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    with open(path, "wb") as handle:
        handle.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            handle.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _nearest(labels, size):
    """Labels at another resolution: those of the nearest pixels."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, labels.shape))
    return labels[rows[:, None], columns]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python run_symbol.py FOLDER IMAGE OUTPUT")
    network = Network(sys.argv[1])
    write_labels(sys.argv[3], network.label_map(read_image(sys.argv[2])), network.contract["colors"])
