"""A server's output: to a file as it comes, masked, with its end at hand.

A server may say more than a disk holds. A log that grows too large keeps its start, where servers
say how they were set up, and its end, where they say why they failed.
"""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Progress bars have lines without end, which are written in pieces.
_MAX_LINE: Final = 65536
_MAX_SECRET: Final = 8192
TAIL_LINES: Final = 100
#: The largest file, and how much of its start and of its end is kept then. All in bytes.
_MAX_FILE: Final = 16 << 20
_KEPT: Final = 4 << 20


class LogFile:
    """Takes chunks of bytes, writes whole masked lines."""

    def __init__(self, path: Path, mask: Callable[[str], str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._mask = mask
        self._file = path.open("wb", buffering=0)
        self._size = 0
        #: The size of the whole lines at its start that are always kept.
        self._start = 0
        self._left_out = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()

    def write(self, chunk: bytes) -> None:
        """Take a piece of output."""
        with self._lock:
            text = self._rest + self._decoder.decode(chunk)
            *lines, self._rest = text.split("\n")
            self._put(lines)
            if len(self._rest) > _MAX_LINE:
                # Its end is kept back, as a secret may be half there.
                masked = self._mask(self._rest)
                self._put([masked[:-_MAX_SECRET]])
                self._rest = masked[-_MAX_SECRET:]

    def close(self) -> None:
        """Write what is left of the last line. May be called twice."""
        with self._lock:
            if self._rest:
                self._put([self._rest])
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

    def _put(self, lines: Iterable[str]) -> None:
        masked = [self._mask(line.rstrip("\r")) for line in lines]
        self._tail.extend(masked)
        if self._file.closed:
            return
        data = "".join(f"{line}\n" for line in masked).encode("utf-8", "replace")
        # On a full disk a log has gaps. The server must not wait for somebody who reads on.
        with suppress(OSError):
            self._size += self._file.write(data) or 0
            if self._size <= _KEPT:
                self._start = self._size
            if self._size > _MAX_FILE:
                self._leave_middle_out()

    def _leave_middle_out(self) -> None:
        """Keep the start and the end of the file, and say how much was between them."""
        with self.path.open("rb") as whole:
            whole.seek(self._size - _KEPT)
            # The end begins with a whole line.
            end = whole.read().partition(b"\n")[2]
        self._left_out += self._size - self._start - len(end)
        note = f"[{self._left_out >> 20} MiB of this log are left out here, as it is too long]\n"
        kept = note.encode() + end
        self._file.truncate(self._start)
        self._file.seek(self._start)
        self._file.write(kept)
        self._size = self._start + len(kept)
