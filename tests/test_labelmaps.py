"""Label maps of anybody: every PNG encoding gives the same ids, and what is no label map is refused by name."""

import numpy as np
import pytest
from PIL import Image

from gluon_confseg import labels
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labelmaps import Classes, Folder, Reader

IDS = np.array([[0, 1, 2, 3], [3, 3, 1, 0]], np.uint8)
COLORS = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200))
FOUR = labels.LabelSet("four", tuple("abcd"), COLORS, {0: 0, 1: 1, 2: 2, 3: 3, 255: 255}, ignored_colors=((9, 9, 9),))


def palette_png(indices, colors):
    image = Image.fromarray(indices, "P")
    image.putpalette([channel for color in colors for channel in color])
    return image


def narrow_png(path, ids, bits):
    """Gray of 2 or 4 bits, which Pillow does not write: a PNG made by hand."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = ids.shape
    rows = b""
    for row in ids:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def read(folder, encoding=None, classes=None):
    listed = Folder("predictions", folder, encoding)
    reader = Reader(listed, listed.files, classes or Classes(FOUR, True))
    return reader, [reader(path) for path in listed.files]


@pytest.mark.parametrize("kind", ["gray", "gray16", "gray4", "gray2", "gray-alpha", "palette", "rgb", "rgba"])
def test_encodings_agree(tmp_path, kind):
    path = tmp_path / "a.png"
    rgb = Image.fromarray(FOUR.colorize(IDS))
    images = {
        "gray": Image.fromarray(IDS),
        "gray16": Image.fromarray(IDS.astype(np.uint16)),
        "gray-alpha": Image.fromarray(IDS).convert("LA"),
        "palette": palette_png(IDS, labels.palette(256)),
        "rgb": rgb,
        "rgba": rgb.convert("RGBA"),
    }
    if kind in images:
        images[kind].save(path)
    else:
        narrow_png(path, IDS, int(kind[-1]))
    reader, [found] = read(tmp_path)
    assert found.dtype == np.uint8 and (found == IDS).all()
    assert reader.colors == (kind in ("rgb", "rgba"))


def test_one_bit(tmp_path):
    Image.fromarray(IDS > 1).save(tmp_path / "a.png")
    assert (read(tmp_path)[1][0] == (IDS > 1)).all()


def test_a_palette_of_class_colours_in_another_order_is_read_by_colour(tmp_path):
    order = np.array([2, 0, 3, 1])  # what programs that shrink PNGs do to RGB
    palette_png(np.argsort(order).astype(np.uint8)[IDS], [COLORS[i] for i in order]).save(tmp_path / "a.png")
    reader, [found] = read(tmp_path)
    assert reader.colors and (found == IDS).all()
    assert (read(tmp_path, "train-ids")[1][0] != IDS).any()


def test_ignored_colours_and_black(tmp_path):
    picture = FOUR.colorize(IDS)
    picture[0, 0], picture[0, 1] = (9, 9, 9), (0, 0, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert read(tmp_path)[1][0].tolist() == [[255, 255, 2, 3], [3, 3, 1, 0]]


def test_black_of_a_class_is_the_class(tmp_path):
    Image.fromarray(labels.VOC.colorize(IDS)).save(tmp_path / "a.png")
    assert (read(tmp_path, classes=Classes(labels.VOC, True))[1][0] == IDS).all()


def test_refused(tmp_path):
    def refused(image, *parts, encoding=None, classes=None, name="a.png"):
        image.save(tmp_path / name, **({"format": "JPEG"} if "jpeg" in parts[0].lower() else {}))
        with pytest.raises(ConfsegError) as error:
            read(tmp_path, encoding, classes)
        for part in (name, *parts):
            assert part in str(error.value)

    picture = FOUR.colorize(IDS)
    picture[0, 0] = (1, 2, 3)
    refused(Image.fromarray(picture), "(1, 2, 3)")
    refused(Image.fromarray(IDS.astype(np.uint16) + 26000), "26000", "instance")
    refused(Image.fromarray(picture), "JPEG named .png")
    refused(Image.fromarray(IDS), "holds ids", encoding="colors")
    with pytest.raises(ConfsegError, match="does not give each class its own"):
        Image.fromarray(picture).save(tmp_path / "a.png")
        read(tmp_path, classes=Classes(FOUR, False))


def test_a_folder_of_two_encodings_is_refused(tmp_path):
    for number in range(20):
        Image.fromarray(IDS).save(tmp_path / f"{number:02}.png")
    Image.fromarray(FOUR.colorize(IDS)).save(tmp_path / "01.png")  # not one of those looked at first
    with pytest.raises(ConfsegError, match="01.png.*one encoding"):
        read(tmp_path)


def test_siblings_of_a_cityscapes_label_are_left_out(tmp_path):
    for city in ("ulm", "bonn"):
        (tmp_path / city).mkdir()
        for ending in ("labelIds", "labelTrainIds", "color", "instanceIds"):
            Image.fromarray(IDS).save(tmp_path / city / f"{city}_0_gtFine_{ending}.png")
    listed = Folder("truth", tmp_path)
    assert listed.kind == "labelIds" and listed.names() == ["bonn_0", "ulm_0"]
    assert listed.paths() == ["bonn/bonn_0", "ulm/ulm_0"]


def test_a_name_that_is_only_an_ending(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "_color.png")
    assert Folder("truth", tmp_path).paths() == ["_color"]


def test_no_folder_and_no_file(tmp_path):
    with pytest.raises(ConfsegError, match="no folder"):
        Folder("truth", tmp_path / "none")
    (tmp_path / "a_instanceIds.png").touch()
    with pytest.raises(ConfsegError, match="no label map"):
        Folder("truth", tmp_path)


def test_classes(tmp_path):
    assert Classes.load("voc") == Classes(labels.VOC, True)
    with pytest.raises(ConfsegError, match="--classes vox.*camvid"):
        Classes.load("vox")
    (tmp_path / "names.txt").write_text("water\nquay wall\n")
    found = Classes.load(str(tmp_path / "names.txt"))
    assert found.labels.classes == ("water", "quay wall") and not found.has_colors
    assert found.labels.raw_ids == {0: 0, 1: 1, 255: 255}
    (tmp_path / "list.yaml").write_text("[water, quay]\n")
    assert Classes.load(str(tmp_path / "list.yaml")).labels.classes == ("water", "quay")
    text = (
        "classes: [{name: water, color: [1, 2, 3], ids: [7]}, {name: quay, color: [%s]}]\nignore_colors: [[5, 5, 5]]\n"
    )
    (tmp_path / "own.yaml").write_text(text % "4, 5, 6")
    found = Classes.load(str(tmp_path / "own.yaml"))
    assert found.has_colors and found.labels.colors == ((1, 2, 3), (4, 5, 6))
    assert found.labels.raw_ids == {7: 0, 1: 1, 255: 255} and found.labels.ignored_colors == ((5, 5, 5),)
    (tmp_path / "own.yaml").write_text(text % "1, 2, 3")  # one colour for two classes says nothing
    assert not Classes.load(str(tmp_path / "own.yaml")).has_colors
    (tmp_path / "own.yaml").write_text("colours: 3\n")
    with pytest.raises(ConfsegError, match="own.yaml.*classes"):
        Classes.load(str(tmp_path / "own.yaml"))
