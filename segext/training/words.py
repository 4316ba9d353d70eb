"""Counted nouns in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Such as "1 image" and "2 images". The plural ends in -s unless it is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
