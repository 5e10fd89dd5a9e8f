"""Label an image with a network that `confseg export --format onnx` wrote.

    python run_onnx.py FOLDER IMAGE.npy OUTPUT.npy

Needs onnxruntime and NumPy; not the package that trained the network. FOLDER holds network.onnx and network.json, which
says what goes in and what comes out. IMAGE is uint8 (H, W, 3) RGB; where "scale" in network.json is not 1, resize it by
that first. OUTPUT is uint8 (H, W), indices into "classes" of network.json.

As a library: `Network(folder).label_map(image)`, or `.run(batch)` for what the graph itself takes and gives.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Network:
    """An exported network; `contract` is its network.json."""

    def __init__(self, folder, providers=("CPUExecutionProvider",)):
        folder = Path(folder)
        self.contract = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        self._session = onnxruntime.InferenceSession(str(folder / "network.onnx"), providers=list(providers))

    def run(self, batch):
        """What the graph takes, float32 (N, 3, H, W), -> what it gives, as NumPy arrays."""
        return self._session.run(None, {self.contract["input"]["name"]: batch})[0]

    def label_map(self, image):
        """RGB uint8 (H, W, 3) -> uint8 (H, W), indices into contract["classes"]."""
        batch = np.float32(image.transpose(2, 0, 1)[None])
        if self.contract["input"]["normalization"] != "inside":
            normalization = self.contract["input"]["normalization"]
            mean, std = (np.array(normalization[key])[None, :, None, None] for key in ("mean", "std"))
            batch = batch * np.float32(1 / (255 * std)) - np.float32(mean / std)
        output = self.run(batch)
        return output[0] if self.contract["output"]["name"] == "labels" else output.argmax(axis=1)[0].astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python run_onnx.py FOLDER IMAGE.npy OUTPUT.npy")
    np.save(sys.argv[3], Network(sys.argv[1]).label_map(np.load(sys.argv[2])))
