"""Upsampled scores with targets to measure them by, and the stock functions that their fused loss stands for."""

import torch
import torch.nn.functional as stock
from samples import normal

REDUCTIONS = ("mean", "sum", "none")
IGNORED = 255


def composition(x, weight, target, bias=None, *window, crop=(0, 0), class_weight=None, **options):
    """What ``conv_transpose2d_cross_entropy`` stands for."""
    scores = stock.conv_transpose2d(x, weight, bias, *window)
    height, width = target.shape[-2:]
    scores = scores[..., crop[0] : crop[0] + height, crop[1] : crop[1] + width]
    return stock.cross_entropy(scores, target, class_weight, **options)


def problem(channels, multiplier, size, kernel, stride, *rest, dtype=torch.float64, samples=2, crop=(1, 2), less=1):
    """Scores, weight, bias, target with ignored pixels and class weights; the target's size is all but ``less``."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    classes = channels * multiplier
    x = normal((samples, channels, *size), dtype, seed=0)
    weight, bias = normal((channels, multiplier, *kernel), dtype, seed=1), normal((classes,), dtype, seed=2)
    whole = stock.conv_transpose2d(x.to("meta"), weight.to("meta"), None, stride, *rest).shape[-2:]
    kept = [max(n - c - less, 1) for n, c in zip(whole, crop, strict=True)]
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, classes, (samples, *kept), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORED
    target[:, 0, 0] = classes - 1  # something counts
    class_weight = torch.rand(classes, generator=generator, dtype=torch.float64).to(dtype)
    return x, weight, bias, target, class_weight
