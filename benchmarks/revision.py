"""Which commit a result is of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def commit() -> str:
    """The checkout's commit, with a plus where files differ from it; of a copy without git, what SEGEXT_COMMIT says."""

    def git(*arguments: str) -> str:
        root = Path(__file__).resolve().parent
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SEGEXT_COMMIT", "")
