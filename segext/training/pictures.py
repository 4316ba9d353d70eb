"""Reads images and labels; errors are one sentence that names the file and the reason."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from .errors import UserError

_UPRIGHT = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAP_SIDES = (5, 6, 7, 8)
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey of 2 and 4 bits by


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image at ``path``. Its pixels are read on first use, so errors from reading them are translated too.

    Pillow's limit on the number of pixels, meant for files from strangers, is lifted meanwhile.

    Raises:
        UserError: if the file cannot be read as an image.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"cannot read {path}: it is not an image of a format that Pillow knows") from None
    except MemoryError:
        raise UserError(f"cannot read {path}: there is not enough memory for its pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from error  # raised by Pillow's decoders on damaged files
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of what :func:`read_image` returns, without reading the pixels."""
    with opened(path) as image:
        _check_mode(image, path)
        return image.size[::-1] if _orientation(image) in _SWAP_SIDES else image.size


def read_image(path: Path) -> Image.Image:
    """The image at ``path``, upright and in RGB; 16 bits become 8."""
    with opened(path) as image:
        _check_mode(image, path)
        orientation = _orientation(image)
        if _is_16_bit(image):  # which convert would clip
            pixels = (np.asarray(image).astype(np.uint32) + 128) // 257
            picture = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        else:
            picture = image.convert("RGB")
    picture.info.pop("exif", None)  # otherwise a picture made from this one may be turned again
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def read_label(path: Path) -> Image.Image:
    """The label at ``path``: an image of mode L, whose values are classes."""
    with opened(path) as image:
        if image.mode not in ("L", "P"):
            raise UserError(
                f"{path}: a label holds one class a pixel (grey or palette, 8 bits), not pixels of mode {image.mode}"
            )
        step = _GREY_STEPS.get(image.tile[0][3], 1) if image.format == "PNG" and image.tile else 1
        return Image.fromarray(np.asarray(image) // step)  # the numbers of a palette image, not its colours


def _check_mode(image: Image.Image, path: Path) -> None:
    if image.mode in ("I", "F") and not _is_16_bit(image):
        raise UserError(f"{path}: an image has 8 or 16 bits per channel, not the 32 of mode {image.mode}")


def _is_16_bit(image: Image.Image) -> bool:
    """Whether it is grey of 16 bits: in Pillow 10, a PNG of that kind has mode I. Colours, Pillow reduces itself."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image whose pixels have not been read, 1 if none is known.

    Pillow applies that of a TIFF itself. For one that follows a PNG's pixels, it would have to read them.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):  # damaged
        return 1
