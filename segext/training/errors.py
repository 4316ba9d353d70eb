"""What ends a command with one sentence rather than a traceback."""

from __future__ import annotations


class Failure(Exception):
    """A command cannot go on. The text is one sentence for whoever typed it; ``status`` is the exit status."""

    status = 1


class UserError(Failure):
    """What was given cannot be used. The text names it, and what to give instead where that is known."""

    status = 2
