"""Writes files; errors, such as a full disk, are one sentence that names the file and the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import UserError


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Translates errors from writing, which often name no file.

    Raises:
        UserError: if ``what`` cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch's zip writer replaces the file's
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"cannot write {what}: {cause.strerror or cause}") from error


@contextmanager
def replacing(path: Path, mode: str, **options: Any) -> Iterator[IO]:
    """A file that replaces ``path`` when it is complete. The old one stays until then, and if writing it fails.

    Raises:
        UserError: if it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with writing(path):
            with unfinished.open(mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
