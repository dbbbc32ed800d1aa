"""The processes of this machine: their descendants and their processor time."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
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


def cpu_seconds(*pids: int) -> float:
    """Return the processor time of processes and their descendants, ended ones included."""
    ours = frozenset[int]().union(*map(family, pids))
    tick = os.sysconf("SC_CLK_TCK")
    # Of user and system, its own and that of children it has waited for.
    return sum(sum(map(int, fields[11:15])) for child, fields in _stats() if child in ours) / tick


def own_seconds(pid: int) -> float:
    """Return the processor time of a process alone, 0 if it is gone."""
    with suppress(OSError, ValueError, IndexError):
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def named(names: Collection[str]) -> Iterator[int]:
    """Yield the processes whose program has one of ``names``."""
    for path in _PROC.glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text().strip() in names:
                yield int(path.parent.name)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Yield every process with its fields from the state on (see proc_pid_stat(5))."""
    for path in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name before them may hold anything, brackets too.
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
