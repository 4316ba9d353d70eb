"""The op that finds the extremes of indices and classes, by which the host checks them."""

import pytest
import torch
import torch.nn.functional as stock
from hypothesis import given
from hypothesis import strategies as st
from samples import FORMATS, name

import segext.functional as own
from segext import ops


def extremes(values, ignored):
    """As the op, in stock's ops."""
    kept = torch.where(values == ignored, 0, values).flatten()
    parts = [torch.stack(torch.aminmax(torch.cat([part, part.new_zeros(1)]))) for part in kept.split(ops.EXTREMES_PART)]
    return torch.stack(parts) if kept.numel() > 0 else values.new_empty(0, 2)


@given(
    count=st.one_of(st.integers(0, 70), st.integers(-3, 3).map(lambda d: ops.EXTREMES_PART + d), st.just(100_000)),
    ignored=st.sampled_from([0, 3, 255, -100, -(2**63), 2**63 - 1]),
    largest=st.sampled_from([1, 5, 300, 2**40, 2**63 - 1]),
    lifted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_extremes_are_stock_s(count, ignored, largest, lifted, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0 if lifted else -largest, largest, (count,), generator=generator)
    values[torch.rand(count, generator=generator) < 0.3] = ignored
    assert torch.equal(ops.extremes(values, ignored), extremes(values, ignored))


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_extremes_of_any_strides(layout, device):
    values = torch.randint(-9, 9, (2, 3, 50, 80), generator=torch.Generator().manual_seed(0))
    values[1, 2, 3, 4], values[0, 1, 2, 3] = 1000, -1000
    values = layout(values).to(device)
    for view in (values, values[:, 1:], values[..., ::3], values[:1].expand(3, -1, -1, -1), values[0, 0, 0], values[0]):
        found = ops.extremes(view, 5)
        kept = torch.where(view == 5, 0, view)
        assert (found.min(), found.max()) == (min(kept.min(), 0), max(kept.max(), 0))


def test_values_of_other_types_are_refused():
    for values in (torch.zeros(3, dtype=torch.int32), torch.zeros(3)):
        with pytest.raises(RuntimeError, match="extremes: values should be int64, but are"):
            ops.extremes(values, 0)


def test_the_check_is_restored_at_the_end_of_a_context():
    values, indices = stock.max_pool2d(torch.randn(1, 2, 4, 4), 2, return_indices=True)
    indices[0, 0, 0, 0] = 16

    def is_checked():
        try:
            own.max_unpool2d(values, indices, 2)
        except RuntimeError as error:
            return "Found an invalid max index: 16" in str(error)
        return False

    assert is_checked()
    with own.set_index_check(False):
        assert not is_checked()
        with own.set_index_check(True):
            assert is_checked()
        assert not is_checked()
    assert is_checked()
    with pytest.raises(KeyError), own.set_index_check(False):
        raise KeyError
    assert is_checked()
    own.set_index_check(False)
    try:
        assert not is_checked()
    finally:
        own.set_index_check(True)
    assert is_checked()
