"""What every data set shares: reading and checking images and labels, joining them, fingerprints."""

import hashlib
import io
import zlib
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from ..errors import ConfsegError
from ..labels import LabelSet

PathLike = Union[str, Path]
# is told of a problem of the files: its kind, what has it (files or ids, one name each), a message for the user
OnProblem = Callable[[str, Sequence[str], str], None]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**28  # a header that claims more is damaged, or an attack on memory
_MAX_PIXELS_PER_BYTE = 8 * 1032  # of a file: deflate's largest ratio, of one bit a pixel

# the kinds of problems that `on_problem` is told of
NO_LABEL = "images without a label"
NO_IMAGE = "labels without an image"
MISSING = "listed files that are not there"
SAME_NAME = "files of the same name"
UNREADABLE = "files that cannot be read"
SHARED = "training images that are validation images too"

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# what Pillow raises for damaged files
DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def refuse(kind: str, names: Sequence[str], message: str) -> None:
    """What a data set does about a problem of its lists, unless it is told to go on: raise ConfsegError."""
    raise ConfsegError(message)


class Sample(NamedTuple):
    """One image of a data set; `label` is None where the split has no labels."""

    id: str
    image: Path
    label: Optional[Path]


class SegmentationDataset:
    """Images and labels of one split, by index. Subclasses list the files; reading and checking is here.

    Attributes:
        labels: the LabelSet of the train ids.
        stored: the LabelSet whose raw ids are those in this split's label files.
        name: the data set's name.
        split: the split's name.
        ids: unique image names, sorted.
        has_labels: False for a split that comes without labels.

    `on_problem` is told of files without a partner, listed files that are not there, and names that occur twice; where
    it returns, the split goes on with what is left, and an image without a label has None. Raises ConfsegError for an
    empty split, and, by default, for any of these problems.
    """

    def __init__(self, labels: LabelSet, split: str, samples: Iterable[Sample], on_problem: OnProblem = refuse):
        self.labels = self.stored = labels
        self.name = labels.name
        self.split = split
        self._samples = _without_repetition(self.name, sorted(samples), on_problem)
        self.ids: List[str] = [sample.id for sample in self._samples]
        if not self._samples:
            raise ConfsegError(
                f"{self.name}: split {split!r} lists no image; check the data root and the split's files"
            )
        self.has_labels = any(sample.label is not None for sample in self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def image_path(self, index: int) -> Path:
        """File of image `index`."""
        return self._samples[index].image

    def label_path(self, index: int) -> Optional[Path]:
        """File of label `index`; None where the split has no labels."""
        return self._samples[index].label

    def image_size(self, index: int) -> Tuple[int, int]:
        """(height, width) of image `index`, without decoding. Raises ConfsegError as `image` does."""
        width, height = image_size(self._samples[index].image)
        return height, width

    def image(self, index: int, rows: Optional[int] = None) -> np.ndarray:
        """Image `index`: uint8 RGB, HxWx3. Raises ConfsegError, naming the file, where it cannot be read.

        With `rows`, at least the first so many rows: what a PNG has below them is neither decoded nor checked.
        """
        path = self._samples[index].image
        data = read_bytes(path)
        return decode_image(path, data if rows is None else _top_of_png(data, rows))

    def label(self, index: int) -> Optional[np.ndarray]:
        """Label `index`: uint8 train ids, HxW, 255 = ignore; None where the split has no labels.

        Raises ConfsegError, naming the file, where it cannot be read, holds an unknown id or has another size than
        its image.
        """
        sample = self._samples[index]
        if sample.label is None:
            return None
        raw = self.read_raw_label(sample.label)
        height, width = self.image_size(index)
        if raw.shape != (height, width):
            raise ConfsegError(
                f"{sample.label}: label is {raw.shape[1]}x{raw.shape[0]} but its image {sample.image} is "
                f"{width}x{height}; get the pair that belongs together"
            )
        return self.stored.to_train(raw, str(sample.label))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the classes, the ids and the files' sizes; the same wherever the data set lies."""
        digest = hashlib.sha256(repr((self.labels, sorted(self.labels.raw_ids.items()), self.split)).encode())
        for sample in self._samples:
            sizes = [_file_size(path) for path in (sample.image, sample.label) if path is not None]
            digest.update(f"{sample.id}\0{sizes}\n".encode())
        return digest.hexdigest()

    def read_raw_label(self, path: Path) -> np.ndarray:
        """A label file's ids as they are stored: uint8 HxW. Raises ConfsegError, naming it, where it cannot be read."""
        return read_label_png(path)


def _without_repetition(name: str, samples: Sequence[Sample], on_problem: OnProblem) -> List[Sample]:
    for before, after in zip(samples, samples[1:]):
        if before.id == after.id:
            message = f"{before.image} and {after.image} have the same id {after.id!r}; rename or remove one"
            on_problem(SAME_NAME, [f"{before.image} and {after.image}"], f"{name}: {message}")
    return list({sample.id: sample for sample in samples}.values())


def read_image(path: PathLike) -> np.ndarray:
    """Decode a PNG or JPEG into RGB uint8 HxWx3; gray is repeated, alpha dropped, EXIF rotation not applied.

    EXIF rotation is left alone because the label, a PNG, belongs to the stored pixels.
    Raises ConfsegError, naming the file, where it is missing, truncated, of another format or not 8 bits a channel.
    """
    return decode_image(path, read_bytes(path))


def decode_image(path: PathLike, data: bytes) -> np.ndarray:
    """`read_image` of a file whose content is at hand already; `path` is only named in errors."""
    # Pillow: 35 ms where OpenCV takes 27 for 2048x1024, but it raises on every truncated file, in all its versions
    image = _decode(path, data)
    # Pillow keeps the upper 8 bits of a 16-bit RGB PNG, which may be black: byte 24 is the bit depth
    deep = image.format == "PNG" and data[24] > 8
    if image.mode not in _EIGHT_BIT_MODES or deep:
        mode = f"{image.mode} of {data[24]} bits" if deep else image.mode
        raise ConfsegError(f"{path}: the image has mode {mode}, not 8 bits a channel; convert it")
    return np.array(image.convert("RGB"))


def _top_of_png(data: bytes, rows: int) -> bytes:
    """A PNG's bytes with a header that claims its first `rows` rows only, so that a decoder stops there.

    The same bytes where the file has no more rows, keeps them interlaced, or is no PNG that begins with its header.
    """
    header = data[12:29]  # "IHDR", width, height, depth, colour type, compression, filter, interlacing
    if not data.startswith(_PNG_START) or len(data) < 33 or header[:4] != b"IHDR" or header[16]:
        return data
    if data[29:33] != zlib.crc32(header).to_bytes(4, "big") or int.from_bytes(header[8:12], "big") <= rows:
        return data
    header = header[:8] + rows.to_bytes(4, "big") + header[12:]
    return b"".join((data[:12], header, zlib.crc32(header).to_bytes(4, "big"), data[33:]))


def read_label_png(path: PathLike) -> np.ndarray:
    """Decode a label PNG, gray or palette, into its ids: uint8 HxW (palette images: the indices, not the colours).

    Raises ConfsegError, naming the file, where it is missing, truncated, or not a single-channel 8-bit PNG.
    """
    image, bits = decode(path)
    # gray of fewer bits is scaled to 0..255 by definition of PNG, which would change the ids
    if image.format != "PNG" or not (image.mode == "P" or (image.mode == "L" and bits == 8)):
        raise ConfsegError(
            f"{path}: a {image.format} of mode {image.mode} does not hold class ids; "
            "a label is a PNG with 8-bit gray values or a palette"
        )
    return np.array(image)


def decode(path: PathLike) -> Tuple[Image.Image, int]:
    """Decode a whole PNG or JPEG: the Pillow image, and the bits per channel that a PNG stores (0 for a JPEG).

    Raises ConfsegError, naming the file, where it is missing, truncated or of another format.
    """
    data = read_bytes(path)
    image = _decode(path, data)
    return image, data[24] if image.format == "PNG" else 0  # byte 24 of a PNG is the bit depth


def image_size(path: PathLike) -> Tuple[int, int]:
    """(width, height) as the file's header says, without decoding. Raises ConfsegError as `read_image` does."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.size
    except DAMAGE as error:
        raise _unreadable(path, error) from error


def read_bytes(path: PathLike) -> bytes:
    """A file's content. Raises ConfsegError, naming the file, where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}; check the data set") from error


def _decode(path: PathLike, data: bytes) -> Image.Image:
    is_png, is_jpeg = data.startswith(_PNG_START), data.startswith(_JPEG_START)
    if not (is_png or is_jpeg):
        raise ConfsegError(f"{path}: neither a PNG nor a JPEG ({len(data)} bytes); get the file again")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:
            raise ConfsegError(
                f"{path}: its header claims {image.width}x{image.height} pixels, more than {MAX_PIXELS}; "
                "get the file again"
            )
        if image.width * image.height > _MAX_PIXELS_PER_BYTE * len(data):
            raise OSError(f"truncated: {len(data)} bytes cannot hold {image.width}x{image.height} pixels")
        # the end marker too: Pillow is content once it has all pixels
        if data.rfind(_PNG_END if is_png else _JPEG_END) < 0:
            raise OSError("truncated: the end marker is missing")
        image.load()
    except ConfsegError:
        raise
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    return image


def _unreadable(path: PathLike, error: Exception) -> ConfsegError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfsegError(f"{path}: cannot decode, truncated or damaged ({reason}); get the file again")


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfsegError(f"cannot read {path}: {error.strerror or error}; check the data set") from error


def require_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raise ConfsegError where `split` is none of `splits`."""
    if split not in splits:
        raise ConfsegError(f"{name} has no split {split!r}; choose one of {', '.join(splits)}")


def require_folders(name: str, root: Path, folders: Iterable[str]) -> None:
    """Raise ConfsegError where `root` or one of its `folders` is missing: what was looked for, and a guess."""
    if not root.is_dir():
        raise ConfsegError(f"{name}: no folder {root}; give the data set's root folder")
    folders = list(folders)
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if not missing:
        return
    above = root.resolve().parents
    near = [path for path in (*sorted(root.iterdir()), *above) if all((path / folder).is_dir() for folder in folders)]
    hint = f"did you mean {near[0]}?" if near else "give the folder that holds them, or unpack them there"
    raise ConfsegError(f"{name}: looked in {root} for {' and '.join(missing)}, not there; {hint}")


def files_by_stem(
    folder: Path, suffixes: Iterable[str], ending: str = "", pattern: str = "*", *, on_problem: OnProblem = refuse
) -> Dict[str, Path]:
    """Files under `folder` (glob `pattern`) with one of `suffixes`, by their stem less `ending`.

    Files of another ending, and hidden ones, are left out; a missing folder holds none.
    `on_problem` is told where two files have the same name (a.png and a.jpg); by default that raises ConfsegError.
    """
    found: Dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.stem.endswith(ending):
            continue
        key = path.stem[: len(path.stem) - len(ending)]
        if key in found:
            message = f"{found[key]} and {path} have the same name; rename or remove one of them"
            on_problem(SAME_NAME, [f"{found[key]} and {path}"], message)
        found[key] = path
    return found


def join(
    name: str, images: Mapping[str, Path], labels: Mapping[str, Path], where: str, on_problem: OnProblem = refuse
) -> List[Sample]:
    """Pair images with labels by id; `where` says where the labels belong, for the message.

    `on_problem` is told of images without a label and labels without an image: the count, the first ones, what to do;
    by default that raises ConfsegError.
    """
    pairings = (
        (NO_LABEL, f"images have no label in {where}", images, labels),
        (NO_IMAGE, f"labels in {where} have no image", labels, images),
    )
    for kind, what, some, others in pairings:
        alone = sorted(set(some) - set(others))
        if alone:
            message = f"{name}: {len(alone)} of {len(some)} {what} (first: {', '.join(alone[:3])}); "
            message += "finish the download, or remove the files without a partner"
            on_problem(kind, [str(some[id_]) for id_ in alone], message)
    return [Sample(id_, images[id_], labels.get(id_)) for id_ in images]


def report_missing(
    name: str, missing: Sequence[str], total: int, where: str, on_problem: OnProblem = refuse, kind: str = MISSING
) -> None:
    """Tell `on_problem` where some of `total` listed files are `missing`: the count, the first ones, what to do."""
    if missing:
        message = f"{name}: {len(missing)} of {total} files are not in {where} (first: {', '.join(missing[:3])}); "
        on_problem(kind, missing, message + "finish the download or unpacking")


def read_list(path: Path) -> List[str]:
    """The non-empty lines of a list file, stripped. Raises ConfsegError where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfsegError(f"cannot read the list {path}: {getattr(error, 'strerror', None) or error}") from error
    return [line.strip() for line in lines if line.strip()]
