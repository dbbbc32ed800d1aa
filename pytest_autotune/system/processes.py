"""The processes of this machine: their descendants and their processor time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

#: Keyword arguments of ``subprocess.Popen``.
#:
#: A group, not a session: Linux schedules sessions against each other (autogroup). A server with
#: busy threads, such as vLLM, would then starve a client in another session for seconds.
OWN_GROUP: Final[Mapping[str, Any]] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
_PROC: Final = Path("/proc")


def family(pid: int) -> frozenset[int]:
    """Return a process and its descendants; only itself on systems without /proc."""
    children: dict[int, list[int]] = {}
    for child, fields in _stats():
        children.setdefault(int(fields[1]), []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += children.get(current, ())
    return frozenset(found)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants, ended ones included."""
    ours = family(pid)
    tick = os.sysconf("SC_CLK_TCK")
    # Of user and system, its own and that of children it has waited for.
    return sum(sum(map(int, fields[11:15])) for child, fields in _stats() if child in ours) / tick


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Yield every process with its fields from the state on (see proc_pid_stat(5))."""
    for path in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name before them may hold anything, brackets too.
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
