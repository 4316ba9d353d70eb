"""Finds images, labels and class names in a folder laid out like CamVid or PASCAL VOC.

CamVid      DATA/{train,val}/images/NAME.jpg with DATA/{train,val}/labels/NAME.png
PASCAL VOC  DATA/ImageSets/Segmentation/{train,val}.txt, one NAME per line,
            with DATA/JPEGImages/NAME.jpg and DATA/SegmentationClass/NAME.png

A file DATA/classes.txt, one name per line, names the classes and so defines their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import UserError, counted
from .palette import VOC_CLASSES

VALUES = 256  # of a label's pixel
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """An image and the label of each of its pixels."""

    image: Path
    label: Path


def images_in(folder: Path) -> list[Path]:
    """The image files in ``folder``, by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not _hidden(path))


def find(data: Path, split: str) -> list[Pair]:
    """The pairs of a split such as ``"train"``.

    Raises:
        UserError: for another layout, an empty split, or an image or label without its counterpart.
    """
    if not data.is_dir():
        raise UserError(f"there is no folder {data}")
    if (data / split / "images").is_dir():
        pairs = _camvid(data / split)
    elif (data / "ImageSets" / "Segmentation").is_dir():
        pairs = _voc(data, split)
    else:
        raise UserError(
            f"{data} has no split {split!r}: neither {split}/images and {split}/labels, as CamVid, nor "
            f"ImageSets/Segmentation/{split}.txt, JPEGImages and SegmentationClass, as PASCAL VOC"
        )
    if not pairs:
        raise UserError(f"the split {split!r} of {data} holds no images")
    return pairs


def named_classes(data: Path, count: int | None = None) -> list[str] | None:
    """The names in classes.txt; None if there is no such file.

    Args:
        count: the number of the network's classes; the number of names if None.

    Raises:
        UserError: if the number of names is not ``count``, or more than a label can hold.
    """
    listed = data / "classes.txt"
    if not listed.is_file():
        return None
    names = [name.strip() for name in _text(listed).splitlines() if name.strip()]
    if not 0 < len(names) <= VALUES:
        raise UserError(
            f"{listed} names {counted(len(names), 'class', 'classes')}, of which a label holds 1 to {VALUES}"
        )
    if count not in (None, len(names)):
        raise UserError(f"{listed} names {counted(len(names), 'class', 'classes')}, but the network has {count}")
    return names


def class_names(data: Path, count: int) -> list[str]:
    """The names of ``count`` classes: from classes.txt, PASCAL VOC's if ``data`` has its layout, or numbers."""
    names = named_classes(data, count)
    if names is not None:
        return names
    if count == len(VOC_CLASSES) and (data / "SegmentationClass").is_dir():
        return list(VOC_CLASSES)
    return [str(number) for number in range(count)]


def _camvid(folder: Path) -> list[Pair]:
    images, labels = folder / "images", folder / "labels"
    if not labels.is_dir():
        raise UserError(f"there is no folder {labels} beside {images}")
    pairs = [Pair(path, labels / f"{path.stem}.png") for path in images_in(images)]
    _complete(pairs)
    image_of: dict[Path, Path] = {}  # by label
    for pair in pairs:
        other = image_of.setdefault(pair.label, pair.image)
        if other != pair.image:
            raise UserError(f"{other} and {pair.image} would share the label {pair.label}")
    lonely = sorted(path for path in labels.glob("*.png") if path not in image_of and not _hidden(path))
    if lonely:
        raise UserError(f"{counted(len(lonely), 'label')} in {labels} without an image: {lonely[0].name}")
    return pairs


def _voc(data: Path, split: str) -> list[Pair]:
    listed = data / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        raise UserError(f"there is no list {listed}")
    names = _text(listed).split()
    pairs = [Pair(data / "JPEGImages" / f"{n}.jpg", data / "SegmentationClass" / f"{n}.png") for n in names]
    missing = [pair.image for pair in pairs if not pair.image.is_file()]
    if missing:
        raise UserError(f"{counted(len(missing), 'image')} of {listed.name} not found: {missing[0]}")
    _complete(pairs)
    return pairs


def _hidden(path: Path) -> bool:
    """Such as ._NAME.png, which macOS leaves beside NAME.png on other file systems."""
    return path.name.startswith(".")


def _text(path: Path) -> str:
    """The text of a file, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from None


def _complete(pairs: list[Pair]) -> None:
    missing = [pair for pair in pairs if not pair.label.is_file()]
    if missing:
        first = missing[0]
        raise UserError(
            f"{counted(len(missing), 'image')} of {len(pairs)} without a label: {first.image} needs {first.label}"
        )
