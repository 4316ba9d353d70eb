"""Prediction by overlapping tiles: where they lie, whose labels are kept, and when that equals one pass."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from segext.models import MODELS
from segext.training.tiles import ALIGNMENT, Tiling, predict


@given(
    length=st.integers(1, 3000),
    size=st.integers(1, 20).map(lambda n: 32 * n),
    overlap=st.integers(0, 19).map(lambda n: 32 * n),
)
def test_tiles_keep_every_pixel_once(length, size, overlap):
    if overlap >= size:
        with pytest.raises(ValueError, match="overlap"):
            Tiling(size, overlap)
        return
    spans = Tiling(size, overlap).along(length)
    assert [n for span in spans for n in range(span.keep_start, span.keep_stop)] == list(range(length))
    for span in spans:
        assert span.start % ALIGNMENT == 0
        assert span.stop - span.start <= max(size + ALIGNMENT - 1, 1)
        assert span.start <= span.keep_start < span.keep_stop <= span.stop
        # Half the overlap is context, except at the image's own edges.
        assert span.keep_start - span.start >= overlap // 2 or span.start == 0
        assert span.stop - span.keep_stop >= overlap // 2 or span.stop == length


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (100, 32), (64, 64), (64, 16), (64, -32)])
def test_tiles_that_do_not_align_are_refused(size, overlap):
    with pytest.raises(ValueError, match="is not a multiple of 32"):
        Tiling(size, overlap)


def local_network(image):
    """Labels by pools of stride 32 in all, beside which only convolutions look, no further than 16 pixels."""
    torch.manual_seed(0)
    fine = F.conv2d(image, torch.randn(5, 3, 33, 33), padding=16)
    coarse = F.max_pool2d(image[:, :1], 32, ceil_mode=True)
    coarse = F.interpolate(coarse, scale_factor=32.0)[..., : image.shape[-2], : image.shape[-1]]
    return (fine + 100 * (coarse - 3) * torch.randn(5, 1, 1)).argmax(1).to(torch.uint8)


@pytest.mark.parametrize("shape", [(200, 333), (97, 192), (64, 500)])
def test_tiles_equal_one_pass_where_the_network_sees_no_further(shape):
    image = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    whole = local_network(image[None])[0]
    assert len(whole.unique()) == 5
    assert torch.equal(predict(local_network, image, Tiling(96, 32)), whole)
    assert torch.equal(predict(local_network, image, Tiling(1024, 0)), whole)
    assert not torch.equal(predict(local_network, image, Tiling(96, 0)), whole)


def test_each_pixel_has_the_label_of_the_tile_in_which_it_is_further_from_the_cut():
    torch.manual_seed(0)
    model = MODELS["segnet"](6, width=1 / 16)
    image = torch.randn(3, 96, 192)
    with torch.no_grad():
        model.train()(image[None])  # so that batch norm knows the image's statistics
    labels = predict(model.predict, image, Tiling(128, 64))
    # Tiles of columns 0 to 128 and 64 to 192: the seam is at 96.
    left, right = model.predict(image[:, :, :128]), model.predict(image[:, :, 64:])
    assert torch.equal(labels, torch.cat([left[:, :96], right[:, 32:]], 1))
    assert len(labels.unique()) > 1
