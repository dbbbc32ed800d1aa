"""The folders of this machine that a container gets, read-only unless the spec says ``:rw``.

Some places are given to no container: whoever can write to the engine's socket owns the machine,
and the folders of the system and of a user's credentials are no data of a server's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_autotune.errors import LaunchError
from pytest_autotune.text.printable import printable

_FORM: Final = "HOST:/CONTAINER or HOST:/CONTAINER:rw"
#: What may follow the folder in the container; SELinux's labels, and no copy into a named volume.
_OPTIONS: Final = frozenset({"ro", "rw", "z", "Z", "nocopy"})
#: Where container engines listen; ``DOCKER_HOST`` may name another place.
_SOCKETS: Final = (
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)
_SYSTEM: Final = (
    "/boot", "/dev", "/etc", "/proc", "/sys",
    "/run/containerd", "/run/docker", "/run/podman", "/run/secrets",
    "/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet",
)  # fmt: skip
#: Of a user's own folder, what other programs keep keys in.
_CREDENTIALS: Final = (
    ".aws", ".azure", ".config", ".docker", ".git-credentials", ".gnupg", ".kube", ".netrc", ".ssh",
)  # fmt: skip
#: Within the system's folders, what is no secret and what servers may need.
_HARMLESS: Final = (
    "/dev/shm",  # noqa: S108 - given to a container, not written to
    "/etc/ca-certificates", "/etc/localtime", "/etc/pki/ca-trust", "/etc/pki/tls/certs",
    "/etc/ssl/certs", "/etc/timezone",
)  # fmt: skip


def volume(written: str, folder: Path, where: str) -> str:
    """Return a volume as the engine takes it; raise :class:`LaunchError` at ``where``.

    A relative path of this machine starts from ``folder``.
    """
    source, colon, rest = written.partition(":")
    target, _, listed = rest.partition(":")
    if not source or not colon or not target.startswith("/"):
        raise LaunchError(f"{where}: {written!r} is not {_FORM}")
    options = listed.split(",") if listed else []
    unknown = next((option for option in options if option not in _OPTIONS), None)
    if unknown is not None:
        raise LaunchError(
            f"{where}: {written!r} ends with {unknown!r}; ro, rw, z, Z and nocopy are known"
        )
    if {"ro", "rw"} <= set(options):
        raise LaunchError(f"{where}: {written!r} says both ro and rw")
    if source.startswith(("/", ".", "~")):
        source = _checked(source, folder, where)
    mode = () if "ro" in options or "rw" in options else ("ro",)
    return f"{source}:{target}:{','.join((*mode, *options))}"


def _checked(source: str, folder: Path, where: str) -> str:
    """Return where a path leads; raise :class:`LaunchError` if no container gets that."""
    try:
        found = (folder / Path(source).expanduser()).resolve()
        is_there = found.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # A link that may not be read, a user that is not known, a character that no path has.
        raise LaunchError(f"{where}: {printable(source)} cannot be found: {error}") from None
    if not is_there:
        # Docker would make an empty folder of it.
        raise LaunchError(f"{where}: {found} does not exist")
    reason = _refusal(found)
    if reason:
        raise LaunchError(f"{where}: {found} {reason}; name the folder that the server reads")
    return str(found)


def _refusal(path: Path) -> str:
    """Return why a folder is given to no container, empty if it may be."""
    if path == Path("/"):
        return "is this whole machine, which is given to no container"
    for socket in _sockets():
        if path == socket or path in socket.parents:
            holds = "is" if path == socket else "holds"
            return f"{holds} the container engine's socket, which is given to no container"
    if path.is_socket():
        return "is a socket, which is given to no container"
    if any(path.is_relative_to(harmless) for harmless in map(_real, _HARMLESS)):
        return ""
    for closed in map(_real, _SYSTEM):
        if path.is_relative_to(closed) or path in closed.parents:
            return f"is or holds a part of {closed}, which is given to no container"
    for closed in (Path.home() / name for name in _CREDENTIALS):
        if path.is_relative_to(closed) or (path in closed.parents and closed.exists()):
            return f"is or holds a part of {closed}, which is given to no container"
    return ""


def _real(path: str) -> Path:
    return Path(path).resolve()


def _sockets() -> Iterator[Path]:
    """Yield the sockets of container engines that may be here."""
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    named = os.environ.get("DOCKER_HOST", "")
    users = (f"{own}/docker.sock", f"{own}/podman/podman.sock")
    yield from map(_real, (*_SOCKETS, *users))
    if named.startswith("unix://"):
        yield _real(named.removeprefix("unix://"))
