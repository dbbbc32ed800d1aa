"""The processes that listen on an address, if it is this machine's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pytest_autotune.system.processes import cpu_seconds, family

_PROC: Final = Path("/proc")
_LISTENS: Final = "0A"
#: A program that listens for others, whose work it does not do.
_FORWARDS: Final = "docker-proxy"


#: Networks of one site, which containers of this machine have addresses in, too.
_NEAR: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"))
)


@runtime_checkable
class Placed(Protocol):
    """A server whose place, and whose use of this machine's processors, is known."""

    @property
    def is_here(self) -> bool:
        """Return whether it runs on this machine."""

    @property
    def hands_on(self) -> bool:
        """Return whether processes that are not known may do its work."""

    def served_seconds(self) -> float | None:
        """Return the processor time here of processes of it that are no children of ours.

        None where that is unknown.
        """


class Listening:
    """Whoever listens on an address: where it is, and its use of this machine's processors."""

    base_url: str
    #: Another process may do its work, as behind a router or a tunnel.
    hands_on: ClassVar[bool] = True

    @property
    def is_here(self) -> bool:
        """Return whether the address is one of this machine's."""
        return is_local(self.base_url)

    def served_seconds(self) -> float | None:
        """Return the processor time of whoever listens there, None where that is unknown."""
        return listener_seconds(self.base_url)


def is_local(url: str) -> bool:
    """Return whether an address is this machine's: whether it can be bound here."""
    for kind, address in _addresses(url):
        with suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
            return True
    return False


def listener_seconds(url: str) -> float | None:
    """Return the processor time of those who listen on a port, and of their descendants.

    It is 0 on another machine, and without children of ours, whose time is known anyway. None where
    nobody can be found, where the listener only forwards, and at a private address that is not this
    machine's: it may be a container's.
    """
    if not is_local(url):
        return None if _is_near(url) else 0.0
    split = urlsplit(url)
    port = split.port or (443 if split.scheme == "https" else 80)
    found = frozenset(_listeners(port))
    if not found or any(_name(pid) == _FORWARDS for pid in found):
        return None
    # Children of ours are counted as such already.
    strangers = found - family(os.getpid())
    if not strangers:
        return 0.0
    # Who has used no time at all leaves the work to others.
    return cpu_seconds(*strangers) or None


def _addresses(url: str) -> Iterator[tuple[int, Any]]:
    """Yield the kind and the value of each address of a URL's host."""
    with suppress(OSError, UnicodeError):
        host = urlsplit(url).hostname or ""
        for kind, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            yield kind, address


def _is_near(url: str) -> bool:
    """Return whether an address is of a private network."""
    found = [ip_address(address[0].partition("%")[0]) for _, address in _addresses(url)]
    return any(address in network for address in found for network in _NEAR)


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
