"""Reads images and labels; errors are one sentence that names the file and the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import UserError


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image at ``path``. Its pixels are read on first use, so errors from reading them are translated too.

    Raises:
        UserError: if the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"cannot read {path}: it is not an image of a format that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {path}: {error}") from error  # raised by Pillow's decoders on damaged files


def read_image(path: Path) -> Image.Image:
    """The image at ``path``, in RGB."""
    with opened(path) as image:
        return image.convert("RGB")


def read_label(path: Path) -> Image.Image:
    """The label at ``path``: an image of mode L, whose values are classes."""
    with opened(path) as image:
        if image.mode not in ("L", "P"):
            raise UserError(
                f"{path}: a label holds one class a pixel (grey or palette, 8 bits), not pixels of mode {image.mode}"
            )
        return Image.fromarray(np.asarray(image))  # the numbers of a palette image, not its colours
