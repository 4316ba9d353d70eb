"""Inputs of transposed convolutions whose channels do not mix, and how near results are to exact ones, by type."""

import torch
from samples import normal

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def inputs(channels, multiplier, size, window, dtype=torch.float64, samples=2, bias=True):
    kernel = (window[0], window[0]) if isinstance(window[0], int) else window[0]
    x = normal((samples, channels, *size), dtype, seed=0)
    weight = normal((channels, multiplier, *kernel), dtype, seed=1)
    return x, weight, normal((channels * multiplier,), dtype, seed=2) if bias else None


def assert_near(actual, expected, dtype, scale=1.0):
    tolerance = TOLERANCES[dtype] * scale
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance * 4)
