"""Colours and names of classes: PASCAL VOC's palette for any number of them, CamVid's for its eleven."""

from __future__ import annotations

VOC_CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "monitor"),
)
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign symbol", "fence", "car", "pedestrian", "bicyclist"),
)


def _voc() -> tuple[tuple[int, int, int], ...]:
    """The 256 colours of PASCAL VOC: the bits of a class's number go to red, green and blue in turn, highest first."""
    colours = []
    for number in range(256):
        bits = f"{number:024b}"[::-1]
        colours.append(tuple(int(bits[channel::3], 2) for channel in range(3)))
    return tuple(colours)


VOC = _voc()
CAMVID = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
    *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    *[(0, 0, 0)] * 245,
)
PALETTES = {"voc": VOC, "camvid": CAMVID}
