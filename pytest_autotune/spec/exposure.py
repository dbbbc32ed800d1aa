"""What a container may do to this machine beyond the defaults, because its spec says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_autotune.spec.server import ServerSpec

_SHARED: Final = {"host": "this machine's", "container": "another container's"}
_ROOT: Final = frozenset({"0", "root"})


def exposures(spec: ServerSpec) -> Iterator[str]:
    """Yield a sentence for everything that a server's container is given beyond the defaults."""
    if spec.backend != "docker":
        return
    for key, value, what in (
        ("network", spec.network, "network, and reaches all that listens there"),
        ("ipc", spec.ipc, "shared memory and its processes' messages"),
    ):
        owner = _SHARED.get(str(value).partition(":")[0])
        if owner is not None:
            yield f"server.{key}: {value}: the container shares {owner} {what}"
    if spec.user is not None and spec.user.partition(":")[0] in _ROOT:
        yield f"server.user: {spec.user}: the container's processes are root's"
    if spec.capabilities:
        listed = ", ".join(spec.capabilities)
        yield f"server.capabilities: the container's processes have {listed}"
    for written in spec.volumes:
        source, _, rest = written.partition(":")
        target, _, options = rest.partition(":")
        if "rw" in options.split(","):
            yield f"server.volumes: the container may write to {source} ({target})"
