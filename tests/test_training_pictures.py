"""Reading images and labels: what their files may hold, and that all of it is read with its meaning."""

import struct
import zlib

import numpy as np
import pytest
from pictures import scene
from PIL import Image, ImageOps

from segext.training.errors import UserError
from segext.training.pictures import image_size, read_image, read_label

ORIENTATION = 0x0112


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_become_8(name, tmp_path):
    values = np.array([[0, 257, 25700], [40000, 65535 - 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode == "RGB"
    assert np.asarray(image)[..., 1].tolist() == [[0, 1, 100], [156, 254, 255]]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_are_refused(kind, tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((2, 3), kind)).save(path)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.tif: an image has 8 or 16 bits per channel, not the 32 of mode"):
            read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_images_are_upright(name, orientation, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(scene(0)[0]).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as image:
        image.load()  # which already turns a TIFF
        expected = ImageOps.exif_transpose(image)
    image = read_image(tmp_path / name)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert image.size == ((64, 48) if orientation < 5 else (48, 64))
    assert image_size(tmp_path / name) == image.size
    image.save(tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        assert ORIENTATION not in again.getexif()


def test_a_damaged_orientation_counts_as_none(tmp_path):
    Image.fromarray(scene(0)[0]).save(tmp_path / "a.jpg", exif=b"Exif\0\0damaged")
    assert read_image(tmp_path / "a.jpg").size == image_size(tmp_path / "a.jpg") == (64, 48)


def test_images_of_any_size_are_read(tmp_path, monkeypatch):
    """Pillow's limit, which is only lifted for the reading."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image, label = scene(0)
    for name, pixels in (("image.png", image), ("label.png", label)):
        Image.fromarray(pixels).save(tmp_path / name)
    assert np.array_equal(np.asarray(read_image(tmp_path / "image.png")), image)
    assert np.array_equal(np.asarray(read_label(tmp_path / "label.png")), label)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(UserError):
        read_image(tmp_path / "none.png")
    assert Image.MAX_IMAGE_PIXELS == 1000


def write_png(path, values, bits, colour):
    """A PNG of few bits per pixel: grey if ``colour`` is 0, of a palette if 3."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = [np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes() for row in values]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3 << bits)) if colour == 3 else b""
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_label_without_pixels_is_refused(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, np.zeros((2, 2), int), 4, 0)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT") - 4] + content[content.index(b"IEND") - 4 :])
    with pytest.raises(UserError, match="cannot read"):
        read_label(path)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_labels_of_any_depth_hold_their_values(bits, colour, tmp_path):
    values = np.arange(2**bits).reshape(2, -1)
    write_png(tmp_path / "a.png", values, bits, colour)
    assert np.array_equal(np.asarray(read_label(tmp_path / "a.png")), values)
