"""Errors that end a command with one sentence rather than a traceback."""

from __future__ import annotations


class Failure(Exception):
    """A command cannot continue. The text is one sentence for the user; ``status`` is the exit status."""

    status = 1


class UserError(Failure):
    """Unusable input. The text names it and, where known, what to use instead."""

    status = 2
