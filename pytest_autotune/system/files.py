"""Write a file that other processes may read at the same time."""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path


def replace_file(target: Path, content: bytes, mode: int | None = None) -> None:
    """Replace ``target`` by a file with ``content``, whole or not at all.

    It has the permissions ``mode``, by default those of ``target``. Raises OSError.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            if mode is None and target.exists():
                mode = stat.S_IMODE(target.stat().st_mode)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            # Without this, the file could be empty after a power cut.
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
