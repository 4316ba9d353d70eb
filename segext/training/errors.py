"""Errors that end a command with one sentence rather than a traceback, and the counted nouns in messages."""

from __future__ import annotations


class Failure(Exception):
    """A command cannot continue. The text is one sentence for the user; ``status`` is the exit status."""

    status = 1


class UserError(Failure):
    """Unusable input. The text names it and, where known, what to use instead."""

    status = 2


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Such as "1 image" and "2 images". The plural ends in -s unless it is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
