"""Counting bytes: what autograd keeps, what pools remember, and what both are of a model's call."""

import torch
import torch.nn.functional as stock
from torch import nn

import segext
from segext.memory import Memory, measure, saved_bytes


def test_saved_bytes_counts_storages_once():
    """x * y keeps both; an exponential keeps its result, and so does the product with it: the same storage."""
    x = torch.ones(10, requires_grad=True)
    y = torch.ones(10, requires_grad=True)
    assert saved_bytes(lambda: x * y) == 80
    assert saved_bytes(lambda: x * y, [x]) == 40

    def product():
        e = x.exp()
        return e * y

    assert saved_bytes(product, [x, y]) == 40


def test_saved_bytes_counts_a_view_whole():
    x = torch.ones(10, requires_grad=True)
    whole = torch.ones(100)
    assert saved_bytes(lambda: x * whole[:10], [x]) == 400


def test_saved_bytes_of_a_stock_pool():
    """Its input, which is the ReLU's output too, and an int64 a pooled element."""
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    x = torch.rand(1, 2, 8, 8, requires_grad=True)
    assert saved_bytes(lambda: model(x), [x]) == 2 * 64 * 4 + 2 * 16 * 8


class Pools(nn.Module):
    """A pool that gives indices, one that does not, and one that nothing is differentiated through."""

    def forward(self, x):
        y, _ = stock.max_pool2d(x, 2, return_indices=True)
        return stock.max_pool2d(y, 2), stock.max_pool2d(x.detach(), 4)


def test_switches_of_every_pool_count():
    """8 bytes an element by stock; by segext 2 bits in windows of 4 pixels, and 4 bits in those of 16."""
    x = torch.rand(1, 2, 16, 16, requires_grad=True)
    assert measure(Pools(), (x,)).switches == 8 * 2 * (64 + 16 + 16)
    converted, _ = segext.convert(Pools())
    assert measure(converted, (x,)).switches == 2 * 64 // 4 + 2 * 16 // 4 + 2 * 16 // 2


def test_measuring_changes_nothing():
    """Neither statistics of batches nor the random state; gradients need not be on, and arguments may be nested."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.dropout = nn.BatchNorm2d(2), nn.Dropout(0.5)

        def forward(self, inputs, scale):
            return self.dropout(self.norm(inputs["x"])) * scale

    model, x = Net(), torch.rand(1, 2, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        found = measure(model, ({"x": x}, 2.0))
    with torch.inference_mode():
        assert measure(model, ({"x": x.clone()}, 2.0)) == found
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    statistics, mask = 2 * 2 * 4, x.nbytes  # a mean and a deviation a channel; what dropout multiplies by
    assert found == Memory(statistics + mask, 0)
