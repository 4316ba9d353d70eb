"""``segext.convert``: which neighbours are fused, and that nothing is where the result could differ."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from networks import VGG, FunctionalSegNet, SegNet, UNet, assert_same, described, image, network, reason, types
from torch import nn

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("inplace", [True, False])
def test_fuses_in_sequential(inplace):
    converted, report = segext.convert(VGG(inplace))
    assert types(converted.features)[1:4] == [nn.Conv2d, nn.Identity, segext.nn.ReLUMaxPool2d]
    pairs = {
        (f"features.{i} + features.{i + 1}", "nn.ReLU + nn.MaxPool2d", "segext.nn.ReLUMaxPool2d") for i in (1, 4, 7)
    }
    assert described(report, "fused") == pairs
    assert not report.swapped
    assert not report.left


def test_fuses_across_blocks_into_a_shared_pool():
    converted, report = segext.convert(SegNet())
    assert type(converted.pool) is segext.nn.ReLUMaxPool2d
    assert type(converted.enc1[2]) is type(converted.enc2[2]) is nn.Identity
    assert type(converted.dec2[2]) is nn.ReLU
    assert {c.name for c in report.fused} == {"enc1.2 + pool", "enc2.2 + pool", "unpool + dec2.0", "unpool + dec1"}
    assert not report.swapped


def test_fuses_and_replaces_calls():
    _, report = segext.convert(FunctionalSegNet())
    assert {c.before for c in report.fused} == {
        "F.relu + F.max_pool2d",
        "torch.relu + F.max_pool2d",
        "Tensor.relu + torch.max_pool2d",
        "F.max_unpool2d + nn.Conv2d",
    }
    # What is unpooled first goes to a ReLU.
    assert {c.before for c in report.swapped} == {"F.max_unpool2d"}


def test_fuses_a_pool_that_is_segexts_already():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), segext.nn.MaxPool2d(2))
    converted, report = segext.convert(model)
    assert type(converted[2]) is segext.nn.ReLUMaxPool2d
    assert [c.name for c in report.fused] == ["1 + 2"]
    assert_same(model, converted, image())


def test_the_output_of_a_fused_pool_must_not_change_in_place():
    """Not before the backward pass, and nobody gets a wrong gradient."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    converted, _ = segext.convert(model)
    model(image()).mul_(2).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        converted(image()).mul_(2).sum().backward()


def skip(m, x):
    x = m.relu(m.conv(x))
    return m.pool(x), x


def skip_before(m, x):
    x = m.conv(x)
    return m.pool(m.relu(x)), x


def skip_before_inplace(m, x):
    x = m.conv(x)
    return m.pool(m.inplace(x)), x


def changed_between(m, x):
    x = m.conv(x)
    y = m.relu(x)
    x += 1
    return m.pool(y) + x.mean()


def alias_changed_between(m, x):
    x = m.conv(x)
    z = x
    y = m.relu(x)
    z += 1
    return m.pool(y) + x.mean()


def changed_afterwards(m, x):
    x = m.pool(m.relu(m.conv(x)))
    return m.inplace(x[:, 1:])


def layer_called_twice(m, x):
    return m.pool(m.again(m.relu(m.conv(x)))) + m.pool(m.relu(m.conv(x)))


def own_relus(m, x):
    return m.pool(F.relu(m.again(m.pool(torch.relu_(m.conv(x))))))


def input_inplace(m, x):
    return m.pool(F.relu_(x)), x


def view_inplace(m, x):
    y = m.conv(x)
    z = y.flatten(2).unflatten(2, (16, 24))
    return m.pool(z.relu_())


def method(m, x):
    return F.max_pool2d(m.conv(x).relu(), 2)


def converts(m, x):
    return m.pool(m.relu(m.conv(x.type(x.dtype))))


def keyword(m, x):
    return F.max_pool2d(input=F.relu(input=m.conv(x)), kernel_size=2, ceil_mode=True)


def computed_window(m, x):
    x = m.conv(x)
    return F.max_pool2d(F.relu(x), kernel_size=x.shape[2:])


@pytest.mark.parametrize(
    ("body", "fused"),
    [
        (skip, 0),
        (skip_before, 1),
        (skip_before_inplace, 0),
        (changed_between, 0),
        (alias_changed_between, 0),
        (changed_afterwards, 0),
        (layer_called_twice, 0),
        (own_relus, 2),
        (input_inplace, 0),
        (view_inplace, 0),
        (method, 1),
        (keyword, 1),
        (converts, 1),
        (computed_window, 1),
    ],
)
def test_fuses_only_where_exact(body, fused):
    model = network(body)
    converted, report = segext.convert(model)
    assert len(report.fused) == fused, report
    x = image()
    assert_same(model, converted, x)
    assert_same(model, pickle.loads(pickle.dumps(converted)), x)


def test_says_why_a_relu_stays():
    _, report = segext.convert(UNet())
    assert reason(report, "enc.0.2") == "not fused: its output has other uses"
    assert {c.name for c in report.swapped} == {"pools.a", "pools.b", "ups.0", "ups.1"}


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_full_backward_hook", "register_forward_pre_hook"]
)
@pytest.mark.parametrize("layer", [1, 2])
def test_hooks_prevent_fusion(register, layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    seen = []
    getattr(model[layer], register)(lambda *args: seen.append(args[-1]))
    converted, report = segext.convert(model)
    assert not report.fused
    assert reason(report, "1") == f"not fused: {layer} has hooks"
    converted(image()).sum().backward()
    assert len(seen) == 1


def test_a_hook_on_a_block_sees_what_it_saw():
    model = SegNet()
    seen = []
    model.enc1.register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    converted, report = segext.convert(model)
    assert not [c for c in report.fused if "Pool2d" in c.after]  # the shared pool can be one thing only
    assert type(converted.pool) is segext.nn.MaxPool2d
    converted(image())
    assert seen[0].min() == 0


class Decoder(nn.Module):
    """Pool, something on the pooled map, unpool, and a convolution that alone reads the unpooled map."""

    def __init__(self, convolution=None):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.mix, self.convolution = nn.Conv2d(3, 3, 1), convolution or nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.convolution(self.unpool(self.mix(pooled), indices))


class DecoderToASize(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.convolution(self.unpool(self.mix(pooled), indices, output_size=x.shape[-2:]))


class ConvolutionRunsElsewhereToo(Decoder):
    def forward(self, x):
        return super().forward(x) + self.convolution(x)


class UnpooledTwiceRead(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled) + unpooled.sum()


class UnpooledShapeRead(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled) * unpooled.shape[-1]


class UnpooledReturned(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled), unpooled


class PooledChangesBefore(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        unpooled = self.unpool(pooled, indices)
        pooled.mul_(2)
        return self.convolution(unpooled)


class PooledChangesLater(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        result = self.convolution(self.unpool(pooled, indices))
        pooled.mul_(2)
        return result


class PooledBaseChangesLater(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        result = self.convolution(self.unpool(pooled.view_as(pooled), indices))
        pooled.mul_(2)
        return result


class PooledChangesByAnOp(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        unpooled = self.unpool(pooled, indices)
        torch.ops.aten.mul_.Scalar(pooled, 0.0)
        return self.convolution(unpooled)


@pytest.mark.parametrize(
    ("kind", "fuses"),
    [
        (Decoder, True),
        (DecoderToASize, True),
        (ConvolutionRunsElsewhereToo, True),
        (UnpooledTwiceRead, False),
        (UnpooledShapeRead, False),
        (UnpooledReturned, False),
        (PooledChangesBefore, False),
        (PooledChangesLater, False),
        (PooledBaseChangesLater, False),
        (PooledChangesByAnOp, False),
    ],
)
def test_unpooling_is_left_to_the_convolution_that_reads_it(kind, fuses):
    model = kind()
    converted, report = segext.convert(model)
    assert bool(report.fused) == fuses
    again, _ = segext.convert(converted)
    for net in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), again):
        assert_same(model, net, image())


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 6, 5, 2, groups=3, bias=False),
        nn.ConvTranspose2d(3, 4, 3, padding=1),
        nn.ConvTranspose2d(3, 4, 2, 2, output_padding=1, dilation=2),
    ],
    ids=str,
)
def test_any_convolution_takes_over_unpooling(convolution):
    model = Decoder(convolution)
    converted, report = segext.convert(model)
    after = "segext.nn.Unpool" + type(convolution).__name__
    assert described(report, "fused") == {("unpool + convolution", f"nn.MaxUnpool2d + nn.{after[16:]}", after)}
    assert_same(model, converted, image())
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image()), model(image()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", ["unpool", "convolution"])
def test_hooks_keep_unpooling_and_convolution_apart(layer):
    model, seen = Decoder(), []
    getattr(model, layer).register_forward_hook(lambda module, args, out: seen.append((args[0].shape, out.shape)))
    converted, report = segext.convert(model)
    assert not report.fused
    model(image())
    converted(image())
    assert seen[0] == seen[1]


def test_a_size_that_only_stock_knows_is_stock_s_to_unpool():
    model = Decoder().eval()
    converted, _ = segext.convert(model)
    torch.testing.assert_close(converted(image(2, 3, 17, 22)), model(image(2, 3, 17, 22)))
