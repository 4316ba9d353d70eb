"""What is being done right now, and for how long: on the terminal's last line, or line by line into a file."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    def __init__(self, stream: TextIO | None = None) -> None:
        self.start = time.monotonic()
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def step(self, text: str) -> None:
        line = f"[{self.elapsed:4.0f} s] {text}"
        self._stream.write(f"\r\033[K{line}" if self._live else f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        if self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()
