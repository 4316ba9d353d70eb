"""What ends a benchmark with one sentence rather than a traceback."""

from __future__ import annotations


class Unusable(Exception):
    """What was given cannot be used. The text is one sentence that names it; the exit status is 2."""


def brief(error: BaseException) -> str:
    """An error of someone else's code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' * (len(text) > 200)}" if text else type(error).__name__
