"""A server's output: to a file as it comes, masked, with its end at hand."""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Progress bars have lines without end, which are written in pieces.
_MAX_LINE: Final = 65536
_MAX_SECRET: Final = 8192
TAIL_LINES: Final = 100


class LogFile:
    """Takes chunks of bytes, writes whole masked lines."""

    def __init__(self, path: Path, mask: Callable[[str], str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._mask = mask
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()

    def write(self, chunk: bytes) -> None:
        """Take a piece of output."""
        with self._lock:
            text = self._rest + self._decoder.decode(chunk)
            *lines, self._rest = text.split("\n")
            for line in lines:
                self._put(line)
            if len(self._rest) > _MAX_LINE:
                # Its end is kept back, as a secret may be half there.
                masked = self._mask(self._rest)
                self._put(masked[:-_MAX_SECRET])
                self._rest = masked[-_MAX_SECRET:]

    def close(self) -> None:
        """Write what is left of the last line. May be called twice."""
        with self._lock:
            if self._rest:
                self._put(self._rest)
                self._rest = ""
            self._file.close()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines, at most a hundred."""
        with self._lock:
            found = [*self._tail, *([self._mask(self._rest)] if self._rest else [])]
            return "\n".join(found[max(0, len(found) - lines) :])

    def text(self) -> str:
        """Return all of it so far."""
        with self._lock:
            return self.path.read_text("utf-8") + self._mask(self._rest)

    def _put(self, line: str) -> None:
        masked = self._mask(line.rstrip("\r"))
        self._tail.append(masked)
        if not self._file.closed:
            self._file.write(masked + "\n")
