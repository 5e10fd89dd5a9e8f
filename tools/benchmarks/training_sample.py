"""A training sample, from the Cityscapes pair of PNGs to the normalised crop: ours against GluonCV's, one thread each.

    OMP_NUM_THREADS=1 python tools/benchmarks/training_sample.py [--size 1024x2048] [--crop 512] [--repeats 9]

Built-in street scenes, smoothed until their PNGs are as large as those of Cityscapes (11 GB for 5000), written by
OpenCV (every row with PNG's filter "Sub") and by Pillow (nearly every row "Paeth", which takes longer to undo). Both
sides scale by 0.5 to 2, crop and flip; GluonCV's CitySegmentation resizes the whole image, and blurs every second one.
Decoding alone is the limit of what reads whole files. Wanted: 2 times as fast, 4 times with decoded images kept.
"""

import random
import tempfile
from pathlib import Path
from typing import Callable, Dict

import click
import cv2
import numpy as np
from alternating import measure, ratio, table
from PIL import Image

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.data import SegmentationDataset, open_dataset, synthetic
from gluon_confseg.data.decoded import Decoded, DecodedFiles
from gluon_confseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, TrainTransform
from gluon_confseg.options import parse_size

IMAGES = 4
ENOUGH = 2**30
THEIRS, DECODING, OURS = "GluonCV's CitySegmentation", "decoding both files", "ours, nothing kept"
FILES, MEMORY = "ours, files of decoded pairs", "ours, in memory"


def with_opencv(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1])


def with_pillow(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)


def draw(root: Path, height: int, width: int, write: Callable[[Path, np.ndarray], None]) -> SegmentationDataset:
    synthetic.ensure("cityscapes", root, train=IMAGES, val=1, size=(height, width), seed=0)
    dataset = open_dataset("cityscapes", root, "train")
    for index in range(IMAGES):
        write(dataset.image_path(index), cv2.GaussianBlur(dataset.image(index), (3, 3), 0))
    return dataset


def theirs(root: Path, long_side: int, crop: int) -> Callable[[], None]:
    import_gluoncv()
    from gluoncv.data import CitySegmentation  # after the line above, which makes it importable

    vision = mx.gluon.data.vision.transforms
    to_input = vision.Compose([vision.ToTensor(), vision.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    dataset = CitySegmentation(str(root), "train", transform=to_input, base_size=long_side, crop_size=crop)
    random.seed(0)

    def run() -> None:
        for index in range(IMAGES):
            image, label = dataset[index]
            image.wait_to_read()
            label.wait_to_read()

    return run


def ours(decoded: Decoded, crop: int) -> Callable[[], None]:
    """What TrainLoader does for a sample."""
    transform = TrainTransform(0, (0.5, 2.0), (crop, crop))
    epochs = iter(range(ENOUGH))

    def run() -> None:
        epoch = next(epochs)
        for index in range(IMAGES):
            window = transform.window(decoded.size(index), epoch=epoch, sample=index)
            transform.cut(*decoded.pair(index, window.last_row), window)

    return run


def compare(scratch: Path, size: str, crop: int, repeats: int, write: Callable) -> None:
    height, width = parse_size(size)
    root = scratch / "data"
    dataset = draw(root, height, width, write)

    def decoding() -> None:
        for index in range(IMAGES):
            dataset.image(index)
            dataset.label(index)

    cases: Dict[str, Callable[[], None]] = {
        THEIRS: theirs(root, max(height, width), crop),
        DECODING: decoding,
        OURS: ours(Decoded(dataset, 0), crop),
        FILES: ours(Decoded(dataset, 0, DecodedFiles(dataset, scratch / "kept", ENOUGH)), crop),
        MEMORY: ours(Decoded(dataset, ENOUGH), crop),
    }
    seconds = {name: [s / IMAGES for s in values] for name, values in measure(cases, repeats).items()}
    bytes_ = sum(dataset.image_path(index).stat().st_size for index in range(IMAGES)) / IMAGES
    written = write.__name__.replace("_", " ")
    print(f"\n{size}, crop {crop}, PNGs of {bytes_ / 1e6:.1f} MB written {written}; seconds a sample:\n")
    print(table(seconds, THEIRS))
    print()
    for name, wanted in ((OURS, 2), (FILES, 4), (MEMORY, 4)):
        print(f"{name}: {1 / ratio(seconds, name, THEIRS):.2f} times as fast (wanted: {wanted})")


@click.command()
@click.option("--size", default="1024x2048", show_default=True)
@click.option("--crop", default=512, show_default=True)
@click.option("--repeats", default=9, show_default=True)
def main(size: str, crop: int, repeats: int) -> None:
    cv2.setNumThreads(0)
    for write in (with_opencv, with_pillow):
        with tempfile.TemporaryDirectory() as scratch:
            compare(Path(scratch), size, crop, repeats, write)


if __name__ == "__main__":
    main()
