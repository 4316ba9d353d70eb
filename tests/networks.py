"""Networks written the usual ways, for conversions, and what tests ask of a converted model."""

import torch
import torch.nn.functional as F
from torch import nn

import segext
from segext._convert import swaps


def conv_bn(cin, cout, inplace=False):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace))


class VGG(nn.Module):
    """Conv-ReLU-pool in one Sequential."""

    def __init__(self, inplace=True):
        super().__init__()
        layers = []
        for cin, cout in ((3, 8), (8, 12), (12, 16)):
            layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class SegNet(nn.Module):
    """Blocks as layers, one pool and one unpool shared by all stages, sizes passed."""

    def __init__(self, inplace=True):
        super().__init__()
        self.enc1, self.enc2 = conv_bn(3, 8, inplace), conv_bn(8, 12, inplace)
        self.dec2, self.dec1 = conv_bn(12, 8, inplace), nn.Conv2d(8, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        size1 = x.size()
        x, idx1 = self.pool(self.enc1(x))
        size2 = x.size()
        x, idx2 = self.pool(self.enc2(x))
        x = self.dec2(self.unpool(x, idx2, output_size=size2))
        return self.dec1(self.unpool(x, idx1, output_size=size1))


class SegNetWithoutSizes(SegNet):
    def forward(self, x):
        x, idx1 = self.pool(self.enc1(x))
        x, idx2 = self.pool(self.enc2(x))
        return self.dec1(self.unpool(self.dec2(self.unpool(x, idx2)), idx1))


class FunctionalSegNet(nn.Module):
    """Everything but the weights is a call; dropout reads the mode."""

    def __init__(self, p=0.0):
        super().__init__()
        self.p = p
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.deconv = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.spare = nn.Parameter(torch.zeros(3))  # never used: a state dict keeps it all the same

    def describe(self):
        return f"{type(self).__name__} with p={self.p}"

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        a, i1 = F.max_pool2d(x, 2, stride=2, return_indices=True)
        a = F.dropout(a, self.p, training=self.training)
        b, i2 = F.max_pool2d_with_indices(torch.relu(self.conv2(a)), kernel_size=(2, 2))
        b = F.max_unpool2d(b, i2, 2, output_size=a.shape[-2:])
        b = F.max_unpool2d(b.relu_(), i1, (2, 2), stride=2, output_size=x.size())
        return torch.max_pool2d(self.deconv(b).relu(), 3, 2, 1)


class Down(nn.Module):
    """ENet's downsampling bottleneck: hands its indices to the caller."""

    def __init__(self, cin, cout):
        super().__init__()
        self.main_max1 = nn.MaxPool2d(2, stride=2, return_indices=True)
        self.ext = nn.Sequential(nn.Conv2d(cin, cout, 2, stride=2, bias=False), nn.BatchNorm2d(cout), nn.PReLU())
        self.out_activation = nn.PReLU()

    def forward(self, x):
        main, max_indices = self.main_max1(x)
        ext = self.ext(x)
        n, channels, h, w = ext.size()
        padding = ext.new_zeros(n, channels - main.size(1), h, w)
        return self.out_activation(torch.cat((main, padding), 1) + ext), max_indices


class DownByDevice(Down):
    """The same with the branch of the published code, which no trace can take."""

    def forward(self, x):
        if x.is_cuda:
            return super().forward(x)
        main, max_indices = self.main_max1(x)
        ext = self.ext(x)
        n, channels, h, w = ext.size()
        padding = ext.new_zeros(n, channels - main.size(1), h, w)
        return self.out_activation(torch.cat((main, padding), 1) + ext), max_indices


class Up(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.main_conv1 = nn.Conv2d(cin, cout, 1, bias=False)
        self.main_unpool1 = nn.MaxUnpool2d(kernel_size=2)
        self.ext = nn.ConvTranspose2d(cin, cout, 2, stride=2)

    def forward(self, x, max_indices, output_size):
        main = self.main_unpool1(self.main_conv1(x), max_indices, output_size=output_size)
        return F.relu(main + self.ext(x, output_size=output_size))


class ENet(nn.Module):
    def __init__(self, down=Down):
        super().__init__()
        self.initial_conv, self.initial_pool = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, padding=1)
        self.down1, self.down2 = down(8, 12), down(12, 16)
        self.up4, self.up5 = Up(16, 12), Up(12, 8)

    def forward(self, x):
        x = torch.cat((self.initial_conv(x), self.initial_pool(x)), 1)
        size1 = x.size()
        x, max_indices1 = self.down1(x)
        size2 = x.size()
        x, max_indices2 = self.down2(x)
        x = self.up4(x, max_indices2, output_size=size2)
        return self.up5(x, max_indices1, output_size=size1)


class UNet(nn.Module):
    """ReLU outputs are skips as well: nothing to fuse."""

    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([conv_bn(3, 4, True), conv_bn(4, 8, True)])
        self.pools = nn.ModuleDict({"a": nn.MaxPool2d(2), "b": nn.MaxPool2d(2)})
        self.mid = conv_bn(8, 8, True)
        self.ups = nn.ModuleList([nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(16, 4, 2, 2)])

    def forward(self, x):
        skips = []
        for block, name in zip(self.enc, "ab", strict=True):
            x = block(x)
            skips.append(x)
            x = self.pools[name](x)
        x = self.mid(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = torch.cat((up(x), skip), 1)
        return x


class ByType(nn.Module):
    """Runs a VGG-like list of layers by their types, as many deconvolution networks do."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x):
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = layer(x)
            elif isinstance(layer, nn.ReLU):
                x = layer(x) * 2 - x
            else:
                x = layer(x)
        return self.unpool(x, indices)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        x = self.features(x)
        if x.sum() > 1e9:
            x = x / 2
        x, indices = self.pool(x)
        return F.max_pool2d(self.unpool(x, indices), 2)


NETWORKS = {
    "vgg": lambda: VGG(inplace=False),
    "vgg-inplace": VGG,
    "segnet": SegNet,
    "segnet-no-size": lambda: SegNetWithoutSizes(inplace=False),
    "functional": FunctionalSegNet,
    "enet": ENet,
    "enet-by-device": lambda: ENet(DownByDevice),
    "unet": UNet,
    "by-type": ByType,
    "data-dependent": DataDependent,
}


# --- Parts of networks, and forwards of one peculiarity ---------------------------------------------------------------


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()
        self.inplace, self.again = nn.ReLU(True), nn.Conv2d(4, 4, 1)
        self.indexed, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)


def network(forward, base=Parts, **attributes):
    """A module of ``base`` with a function as its forward, of a class that pickles."""
    name = f"Net_{forward.__name__}"
    members = {"forward": forward, "__module__": __name__, "__qualname__": name}
    kind = globals().setdefault(name, type(name, (base,), members))
    model = kind()
    for attribute, value in attributes.items():
        setattr(model, attribute, value)
    return model


class Branching(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.conv, self.pool, self.kind, self.seen = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), kind, []

    def forward(self, x, skip=None, scale=1):
        x = F.relu(self.conv(x))
        if self.kind == "optional argument" and skip is not None:
            x = x + skip
        if self.kind == "context":
            with torch.no_grad():
                y = x * 2
            x = x + y
        if self.kind == "keeps":
            self.seen.append(x)
        if self.kind == "own tensor":
            x = x + torch.arange(24)
        if self.kind == "random" and torch.rand(()) < 0.5:
            x = x + 1
        if self.kind == "mode" and self.training is True:
            x = x + 1
        if self.kind == "type of a tensor" and isinstance(x, torch.Tensor):
            x = x + 1
        return F.max_pool2d(x, 2) * scale + self.pool(x)


class ByMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.relu(self.conv(x))
        y = self.pool(x) + F.max_pool2d(x, 2) * 0 if self.training else self.pool(x)
        return y


class Pooling(nn.Module):
    """Pools in a method of its own, after a ReLU in its forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def _down(self, x):
        return F.max_pool2d(x, 2)

    def forward(self, x):
        return self._down(F.relu(self.conv(x)))


def block():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


# --- Helpers ----------------------------------------------------------------------------------------------------------


def image(*size, dtype=torch.float32, memory_format=torch.contiguous_format):
    x = torch.randn(*(size or (2, 3, 16, 24)), generator=torch.Generator().manual_seed(1))
    return x.to(dtype, memory_format=memory_format if x.dim() == 4 else torch.contiguous_format)


def flatten(value):
    return [t for v in value for t in flatten(v)] if isinstance(value, tuple | list) else [value]


def assert_same(model, converted, x, grad=True):
    """Outputs, gradients of input and parameters, state dict: bit for bit where no convolution changed."""
    assert list(model.state_dict()) == list(converted.state_dict())
    assert list(dict(model.named_modules())) == list(dict(converted.named_modules()))
    results = []
    for net in (model, converted):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_(grad)
        net.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        out = flatten(net(leaf * 1))
        if grad:
            sum((o.float() ** 2).sum() for o in out if o.is_floating_point()).backward()
        results.append((out, leaf.grad, {n: p.grad for n, p in net.named_parameters()}, net.state_dict()))
    changed = any(isinstance(m, (swaps.UnpoolingConv2d, segext.nn.ConvTranspose2d)) for m in converted.modules())
    torch.testing.assert_close(*results, **({"rtol": 1e-3, "atol": 1e-3} if changed else {"rtol": 0, "atol": 0}))


def described(report, action):
    return {(c.name, c.before, c.after) for c in report.changes if c.action == action}


def reason(report, name, start=""):
    return next(c.reason for c in report.left if c.name == name and c.reason.startswith(start))


def types(model):
    return [type(m) for m in model.modules()]
