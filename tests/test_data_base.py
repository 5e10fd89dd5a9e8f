"""Reading and checking of files, whatever the data set."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from gluon_confseg.data import check_disjoint, find_root, open_dataset
from gluon_confseg.data.base import (
    Sample,
    SegmentationDataset,
    files_by_stem,
    image_size,
    join,
    read_image,
    read_label_png,
    read_list,
)
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import VOC

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
IDS = RNG.integers(0, 21, (12, 20), dtype=np.uint8)


def make_pairs(folder, count=3):
    samples = []
    for index in range(count):
        image, label = folder / f"i{index}.png", folder / f"l{index}.png"
        Image.fromarray(PHOTO).save(image)
        Image.fromarray(IDS).save(label)
        samples.append(Sample(f"id{index}", image, label))
    return samples


def interlaced(pixels):
    """A gray PNG in Adam7's seven passes, which Pillow does not write."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row.tobytes() for y, x, down, right in starts for row in pixels[y::down, x::right]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 1)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"".join(b"\0" + row for row in rows)), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\x00\x00\x00\x00IEND\xaeB`\x82"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


def test_png_is_read_as_rgb(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8 and np.array_equal(image, PHOTO)
    assert image_size(tmp_path / "a.png") == (20, 12)


def test_jpeg_is_read_as_rgb(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - red).max() <= 4


def test_gray_and_alpha_become_three_channels(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([PHOTO, IDS])).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.dstack([IDS] * 3))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), PHOTO)


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (12, 20, 3)


def test_sixteen_bit_gray_image_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IDS.astype(np.uint16))
    with pytest.raises(ConfsegError, match=r"a\.png: the image has mode I.*not 8 bits"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("missing", [1, 2, 5, 12, 40, 0.3, 0.6, 0.95])
def test_truncated_image_is_refused(tmp_path, suffix, missing):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(data[: len(data) - (missing if missing >= 1 else int(len(data) * missing))])
    with pytest.raises(ConfsegError, match=rf"a\.{suffix}: cannot decode, truncated or damaged .*get the file again"):
        read_image(path)


def test_bytes_after_the_end_are_harmless(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.fromarray(PHOTO).save(tmp_path / name)
        with open(tmp_path / name, "ab") as handle:
            handle.write(b"\0" * 100)
        assert read_image(tmp_path / name).shape == (12, 20, 3)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_something_else_is_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ConfsegError, match=r"a\.png: neither a PNG nor a JPEG"):
        read_image(tmp_path / "a.png")


def test_missing_file_is_refused(tmp_path):
    for read in (read_image, read_label_png):
        with pytest.raises(ConfsegError, match=r"cannot read .*none\.png: No such file"):
            read(tmp_path / "none.png")
    with pytest.raises(ConfsegError, match=r"none\.png: .*No such file"):
        image_size(tmp_path / "none.png")


@pytest.mark.parametrize("pillows_limit", [None, Image.MAX_IMAGE_PIXELS])
def test_header_that_claims_too_much(tmp_path, monkeypatch, pillows_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    (tmp_path / "a.png").write_bytes(png_header(2**14, 2**14 + 1))
    with pytest.raises(ConfsegError, match=r"a\.png: .*pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [8, 4])
def test_palette_label_gives_indices_not_colours(tmp_path, bits):
    ids = IDS % 16
    image = Image.fromarray(ids, mode="P")
    image.putpalette([value for color in VOC.colors[:16] for value in color])
    image.save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_label_png(tmp_path / "a.png"), ids)


def test_label_that_holds_no_ids_is_refused(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "colour.png")
    Image.fromarray(IDS).save(tmp_path / "lossy.jpg")
    Image.fromarray(IDS > 5).save(tmp_path / "bit.png")
    for name in ("colour.png", "lossy.jpg", "bit.png"):
        with pytest.raises(ConfsegError, match=rf"{name}: .*does not hold class ids"):
            read_label_png(tmp_path / name)


def test_four_bit_gray_label_is_refused(tmp_path):
    # PNG defines its values as scaled to 0..255: ids 0..15 would come back as 0, 17, 34, ...
    raw = b"".join(b"\0" + bytes([0x12, 0x34]) for _ in range(4))
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(body)
    assert read_image(tmp_path / "a.png")[0, 0, 0] == 17
    with pytest.raises(ConfsegError, match="8-bit gray"):
        read_label_png(tmp_path / "a.png")


def test_dataset_is_sorted_and_reads_pairs(tmp_path):
    dataset = SegmentationDataset(VOC, "train", make_pairs(tmp_path)[::-1])
    assert dataset.ids == ["id0", "id1", "id2"] and len(dataset) == 3 and dataset.has_labels
    assert dataset.name == "voc" and dataset.labels is VOC and dataset.split == "train"
    assert dataset.image_path(1).name == "i1.png" and dataset.label_path(1).name == "l1.png"
    assert np.array_equal(dataset.image(1), PHOTO) and np.array_equal(dataset.label(1), IDS)


def test_label_of_another_size_names_both_files(tmp_path):
    samples = make_pairs(tmp_path)
    Image.fromarray(IDS[:, :-1]).save(samples[1].label)
    dataset = SegmentationDataset(VOC, "train", samples)
    with pytest.raises(ConfsegError, match=r"l1\.png: label is 19x12 but its image .*i1\.png is 20x12"):
        dataset.label(1)


def test_unknown_id_names_the_file(tmp_path):
    samples = make_pairs(tmp_path)
    Image.fromarray(np.full((12, 20), 77, np.uint8)).save(samples[2].label)
    with pytest.raises(ConfsegError, match=r"l2\.png: label ids 77 are not ids of voc"):
        SegmentationDataset(VOC, "train", samples).label(2)


def test_empty_split_and_repeated_id_are_refused(tmp_path):
    with pytest.raises(ConfsegError, match="split 'train' lists no image"):
        SegmentationDataset(VOC, "train", [])
    first, second, _ = make_pairs(tmp_path)
    with pytest.raises(ConfsegError, match="have the same id 'id0'"):
        SegmentationDataset(VOC, "train", [first, second._replace(id="id0")])


def test_fingerprint_follows_ids_sizes_and_classes_but_not_the_place(tmp_path):
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    here, there = (make_pairs(folder) for folder in folders)
    prints = [SegmentationDataset(VOC, "train", samples).fingerprint() for samples in (here, there, here[:2])]
    assert prints[0] == prints[1] != prints[2] and len(prints[0]) == 64
    there[0].label.write_bytes(there[0].label.read_bytes() + b"\0")
    assert SegmentationDataset(VOC, "train", there).fingerprint() != prints[0]
    there[0].label.unlink()
    with pytest.raises(ConfsegError, match=r"l0\.png"):
        SegmentationDataset(VOC, "train", there).fingerprint()


def test_join_counts_and_names_what_is_alone(tmp_path):
    paths = {name: tmp_path / name for name in "abcdef"}
    some = {name: paths[name] for name in "af"}
    with pytest.raises(
        ConfsegError, match=r"set: 4 of 6 images have no label in gt \(first: b, c, d\); finish the download"
    ):
        join("set", paths, some, "gt")
    with pytest.raises(ConfsegError, match=r"set: 4 of 6 labels in gt have no image \(first: b, c, d\)"):
        join("set", some, paths, "gt")
    assert [sample.id for sample in join("set", some, some, "gt")] == ["a", "f"]


def test_files_by_stem_skips_hidden_files_and_refuses_twins(tmp_path):
    for name in ("a.png", "._a.png", "b.JPG", "c.txt"):
        (tmp_path / name).touch()
    assert set(files_by_stem(tmp_path, (".png", ".jpg"))) == {"a", "b"}
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ConfsegError, match="have the same name"):
        files_by_stem(tmp_path, (".png", ".jpg"))


def test_missing_list(tmp_path):
    with pytest.raises(ConfsegError, match=r"cannot read the list .*val\.txt: No such file"):
        read_list(tmp_path / "val.txt")


def test_check_disjoint(tmp_path):
    samples = make_pairs(tmp_path, 4)
    train = SegmentationDataset(VOC, "train", samples[:3])
    check_disjoint(train, SegmentationDataset(VOC, "val", samples[3:]))
    with pytest.raises(ConfsegError, match=r"2 images of the training split 'train' .*'val' too \(first: id1, id2\)"):
        check_disjoint(train, SegmentationDataset(VOC, "val", samples[1:]))


def test_find_root(monkeypatch, tmp_path):
    monkeypatch.delenv("VOC_ROOT", raising=False)
    assert find_root("voc") == (None, "built-in")
    monkeypatch.setenv("VOC_ROOT", "")
    assert find_root("voc") == (None, "built-in")
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    assert find_root("voc") == (tmp_path, "variable")
    assert find_root("voc", tmp_path / "b") == (tmp_path / "b", "option")
    with pytest.raises(ConfsegError, match="needs --data-root"):
        find_root("folders")


def test_unknown_dataset(tmp_path):
    with pytest.raises(ConfsegError, match="no data set 'ade20k'; there are cityscapes, voc, camvid, folders"):
        open_dataset("ade20k", tmp_path, "train")


@pytest.mark.parametrize("name", ["cityscapes", "voc", "camvid", "folders"])
def test_missing_root_is_named(tmp_path, name):
    with pytest.raises(ConfsegError, match="nowhere") as caught:
        open_dataset(name, tmp_path / "nowhere", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cityscapes", "voc", "camvid"])
def test_unknown_split_lists_the_splits(tmp_path, name):
    with pytest.raises(ConfsegError, match=f"{name} has no split 'trainval'; choose one of train, "):
        open_dataset(name, tmp_path, "trainval")


def test_a_listener_lets_a_data_set_go_on(tmp_path):
    found = []
    samples = make_pairs(tmp_path)
    images = {sample.id: sample.image for sample in samples}
    labels = {"id1": samples[1].label, "id2": samples[2].label, "id9": tmp_path / "stray.png"}

    def listen(kind, names, message):
        found.append((kind, names))

    joined = join("x", images, labels, "masks", listen)
    dataset = SegmentationDataset(VOC, "train", [*joined, joined[2]], listen)
    assert dataset.ids == ["id0", "id1", "id2"]
    assert dataset.has_labels and dataset.label(0) is None and dataset.label(1).shape == IDS.shape
    assert found == [
        ("images without a label", [str(tmp_path / "i0.png")]),
        ("labels without an image", [str(tmp_path / "stray.png")]),
        ("files of the same name", [f"{tmp_path / 'i2.png'} and {tmp_path / 'i2.png'}"]),
    ]


@pytest.mark.parametrize("rows", [1, 7, 39, 40, 41])
@pytest.mark.parametrize("kind", ["RGB", "L", "P", "jpg", "interlaced"])
def test_the_upper_rows_are_those_of_the_whole_image(tmp_path, kind, rows):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 5000, 3)).astype(np.uint8)  # several IDAT chunks
    image = Image.fromarray(pixels)
    path = tmp_path / ("a.jpg" if kind == "jpg" else "a.png")
    if kind == "interlaced":
        path.write_bytes(interlaced(pixels[..., 0]))
    else:
        image.convert(kind if kind in ("L", "P") else "RGB").save(path)
    Image.new("L", (1, 1)).save(tmp_path / "l.png")
    dataset = SegmentationDataset(VOC, "train", [Sample("a", path, tmp_path / "l.png")])
    whole, part = dataset.image(0), dataset.image(0, rows)
    assert dataset.image_size(0) == whole.shape[:2]
    assert len(part) == (len(whole) if kind in ("jpg", "interlaced") else min(rows, 40))
    np.testing.assert_array_equal(part, whole[: len(part)])


def test_reading_the_upper_rows_still_finds_a_truncated_or_damaged_header(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(path)
    dataset = SegmentationDataset(VOC, "train", [Sample("a", path, None)])
    content = path.read_bytes()
    for damaged in (content[:25], content[:-12], content[:30] + b"?" + content[31:], content[:22] + content[25:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfsegError, match=r"a\.png"):
            dataset.image(0, 3)
