"""What a type checker makes of calls in a user's code: results have the type that the arguments give them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

USER = """
import torch
from torch import Tensor, nn

import segext
import segext.functional as F

x, weight = torch.randn(1, 3, 8, 8), torch.randn(3, 1, 4, 4)
switches: segext.Switches
pooled: Tensor = F.max_pool2d(x, 2)
pooled, switches = F.max_pool2d(x, 2, return_indices=True)
pooled = F.relu_max_pool2d(x, 2, 2, 0)
by_place: Tensor | tuple[Tensor, segext.Switches] = F.max_pool2d(x, 2, None, 0, 1, False, True)
flag = bool(x.any())
by_flag: Tensor | tuple[Tensor, segext.Switches] = F.relu_max_pool2d(x, 2, return_indices=flag)
pooled, switches = F.relu_max_pool2d(x, (2, 2), return_indices=True)
full: Tensor = F.max_unpool2d(pooled, switches)
labels: Tensor = F.conv_transpose2d_argmax(x, weight, stride=2, groups=3)
labels, scores = F.conv_transpose2d_argmax(x, weight, stride=2, groups=3, return_scores=True)
by_size: int = switches.size(0)
sizes: tuple[int, ...] = switches.size()
packed: segext.nn.UnpoolConv2d = segext.nn.UnpoolConv2d(3, 4, 3, padding=1).prepack()
converted: nn.Module = segext.convert(segext.models.fcn8s(21))[0]
left: tuple[segext.Change, ...] = segext.convert(nn.Identity())[1].left
fused: nn.Module = segext.nn.ConvTranspose2dArgmax(21, 21, 16, 8, groups=21, bias=False, crop=31, return_scores=True)
"""
WRONG = """
switches = F.max_pool2d(x, 2)
F.max_unpool2d(pooled, "switches")
switches.cpu()
segext.models.fcn16(21)
segext.models.fcn8s(widht=0.25)
fused = segext.nn.ConvTranspose2dAdd(21, 21, "4")
fused = segext.nn.ConvTranspose2dArgmax()
fused = segext.nn.ConvTranspose2dCrossEntropy(3, 3, 2, weight=x)
left = segext.convert(nn.Identity())[1].swaped
"""


@pytest.mark.slow
def test_calls_have_the_types_of_their_results(tmp_path):
    (tmp_path / "user.py").write_text(USER + WRONG)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", f"--cache-dir={tmp_path}", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = [int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line]
    first = USER.count("\n") + 2
    assert lines == list(range(first, first + WRONG.count("\n") - 1)), result.stdout + result.stderr
