"""Hosts of addresses, and the patterns of a policy that they match."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from pytest_autotune.errors import PolicyError

LOCALHOST: Final = "localhost"
_ANY: Final = "*"
_BELOW: Final = "*."
#: Not so ``evil.org,db.example.org``: PostgreSQL's library takes that for two hosts.
_NAME: Final = re.compile(r"[\w.-]+")
#: Settings in a database's URL that say nothing of where it is.
_HARMLESS: Final = frozenset({"application_name", "charset", "connect_timeout", "sslmode"})


def host_of(url: str) -> str:
    """Return the host of an address in small letters, ``localhost`` for this machine's own."""
    return _plain(urlsplit(url).hostname or "")


def database_host(url: str) -> str:
    """Return the host of a database's URL as :func:`host_of` does, empty where it is not plain.

    It is not without a host, as of a file, nor with settings that may name another host or a file.
    """
    # Here, as it is large, and needed only where a URL is given.
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return ""
    return _plain(parsed.host or "") if parsed.query.keys() <= _HARMLESS else ""


def read_host(written: str, where: str) -> str:
    """Return a pattern of hosts in small letters; raise :class:`PolicyError` for none.

    A star may not end a name: whoever owns a domain may call hosts in it ``10.0.0.example.org``.
    """
    pattern = written.lower()
    name = pattern.removeprefix(_BELOW)
    if pattern == _ANY or (_ANY not in name and ("/" not in name or _network(name) is not None)):
        return pattern
    raise PolicyError(
        f"{where}: {written!r} is not a host; write a name, *.example.org for the hosts of a "
        "domain, an address, a network such as 10.0.0.0/8, or * for any host"
    )


def is_listed(host: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a host matches one of the ``patterns``."""
    return any(_matches(host, pattern) for pattern in patterns)


def _plain(host: str) -> str:
    host = host.lower()
    try:
        return LOCALHOST if ip_address(host).is_loopback else host
    except ValueError:
        return host


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith(_BELOW):
        return host.endswith(pattern[1:]) and _NAME.fullmatch(host) is not None
    network = _network(pattern)
    if network is None:
        return pattern in {_ANY, host}
    try:
        address = ip_address(network.network_address if host == LOCALHOST else host)
    except ValueError:
        return False
    return address in network and (host != LOCALHOST or address.is_loopback)


def _network(pattern: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(pattern)
    except ValueError:
        return None
