"""Read files of unknown make, write files that others may read, and find where none can be."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; raise OSError.

    A pipe would wait for a writer, and a device may have no end.
    """
    # Only so a pipe is opened at once.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor is no path
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a device or a pipe, and no regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most / 1e6:g} MB")
    return content


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


def unwritable(path: Path) -> Path | None:
    """Return what keeps ``path`` from being written: itself, or the nearest folder that exists.

    None where it can be written, or made.
    """
    there = next((each for each in (path, *path.parents) if each.exists()), path)
    return None if os.access(there, os.W_OK) else there
