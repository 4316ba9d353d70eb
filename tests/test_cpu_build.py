"""The CPU kernels as compiled: what works on vectors is inlined, so that they stay in registers."""

import subprocess
from pathlib import Path

import segext

LIBRARY = Path(segext.__file__).with_name("_ops.so")


def test_what_torch_may_lack_is_weak():
    """So that the library loads under torch 2.11 too, which cannot say why a call failed."""
    command = ["nm", "-D", "--undefined-only", LIBRARY]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = {symbol: kind for kind, symbol in (line.split()[-2:] for line in listing.splitlines())}
    assert kinds["torch_exception_get_what_without_backtrace"] == "w"


def test_no_call_passes_vectors():
    """GCC decides about a lambda by itself; out of line, its vectors go through memory."""
    listing = subprocess.run(["nm", "--demangle", LIBRARY], capture_output=True, text=True, check=True).stdout
    functions = [line for line in listing.splitlines() if " t " in line]
    assert any("::max_pool2d(" in function for function in functions)  # the names of local functions are there
    assert [function for function in functions if "__vector(" in function] == []
