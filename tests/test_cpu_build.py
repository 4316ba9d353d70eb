"""The CPU kernels as compiled: what works on vectors is inlined, so that they stay in registers."""

import subprocess
from pathlib import Path

import segext

LIBRARY = Path(segext.__file__).with_name("_ops.so")


def test_no_call_passes_vectors():
    """GCC decides about a lambda by itself; out of line, its vectors go through memory."""
    listing = subprocess.run(["nm", "--demangle", LIBRARY], capture_output=True, text=True, check=True).stdout
    functions = [line for line in listing.splitlines() if " t " in line]
    assert any("::max_pool2d(" in function for function in functions)  # the names of local functions are there
    assert [function for function in functions if "__vector(" in function] == []
