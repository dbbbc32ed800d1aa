"""The processes that listen on an address, if it is this machine's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pytest_autotune.system.processes import cpu_seconds, family

_PROC: Final = Path("/proc")
_LISTENS: Final = "0A"
#: A program that listens for others, whose work it does not do.
_FORWARDS: Final = "docker-proxy"


def is_local(url: str) -> bool:
    """Return whether an address is this machine's: whether it can be bound here."""
    host = urlsplit(url).hostname or ""
    with suppress(OSError, UnicodeError):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, 0, type=socket.SOCK_DGRAM
        ):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False


def listener_seconds(url: str) -> float | None:
    """Return the processor time of those who listen on a port, and of their descendants.

    It is 0 on another machine, and without children of ours, whose time is known anyway. None where
    nobody can be found, or the listener only forwards.
    """
    if not is_local(url):
        return 0.0
    split = urlsplit(url)
    port = split.port or (443 if split.scheme == "https" else 80)
    found = frozenset(_listeners(port))
    if not found or any(_name(pid) == _FORWARDS for pid in found):
        return None
    # Children of ours are counted as such already.
    return cpu_seconds(*found - family(os.getpid()))


def _listeners(port: int) -> Iterator[int]:
    """Yield the processes that have a listening socket of ``port`` open."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for folder in _PROC.glob("[0-9]*/fd") if wanted else ():
        with suppress(OSError):
            if any(str(link.readlink()) in wanted for link in folder.iterdir()):
                yield int(folder.parent.name)


def _inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError, ValueError, IndexError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _name(pid: int) -> str:
    with suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text().strip()
    return ""
