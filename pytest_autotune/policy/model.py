"""A policy as its file has it, with the defaults of what it does not name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import PolicyError
from pytest_autotune.policy.hosts import read_host
from pytest_autotune.policy.images import Image
from pytest_autotune.spec.server import PIDS, capability, size_bytes
from pytest_autotune.text.places import Origin, json_pointer
from pytest_autotune.text.suggest import shown
from pytest_autotune.text.values import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of this machine with all below it, or with ``path`` None a volume of the engine."""

    written: str
    name: str
    path: Path | None
    writable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Where a variable may go: into servers' ``environment``, and as a key to ``hosts``."""

    environment: bool = False
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What specs may ask for. Sizes are in bytes; None is no limit."""

    origin: Origin
    images: Mapping[str, Image] = field(default_factory=dict)
    require_digest: bool = False
    volumes: tuple[Folder, ...] = ()
    networks: tuple[str, ...] = ("bridge",)
    ipc: tuple[str, ...] = ("private",)
    users: tuple[str, ...] = ("image",)
    capabilities: tuple[str, ...] = ()
    memory: float | None = None
    shm_size: float | None = None
    pids: int = PIDS
    gpus: int | None = None
    variables: Mapping[str, Variable] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()
    command: bool = False
    prepare: bool = False

    def place(self, rule: str) -> str:
        """Return file and line of a rule; only the file where it is the default that holds."""
        found = self.origin.places.get(json_pointer(rule))
        return self.origin.file if found is None else f"{self.origin.file}:{found.line}"


def read_policy(document: Mapping[str, Any], origin: Origin) -> Policy:
    """Read a schema-valid ``document``; raise :class:`PolicyError`."""
    values = {key: _READERS.get(key, _plain)(value, origin, key) for key, value in document.items()}
    if values.get("require_digest", False):
        _require_digests(values.get("images", {}), origin)
    return Policy(origin=origin, **values)


def _plain(value: Any, _origin: Origin, _key: str) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _images(listed: Sequence[str], _origin: Origin, _key: str) -> Mapping[str, Image]:
    return {written: Image.parse(written) for written in listed}


def _folders(listed: Sequence[str], origin: Origin, key: str) -> tuple[Folder, ...]:
    return tuple(_folder(written, origin.at(key, index)) for index, written in enumerate(listed))


def _hosts(listed: Sequence[str], origin: Origin, *key: str) -> tuple[str, ...]:
    return tuple(read_host(written, origin.at(*key, index)) for index, written in enumerate(listed))


def _variables(
    listed: Mapping[str, Mapping[str, Any]], origin: Origin, key: str
) -> Mapping[str, Variable]:
    return {
        name: Variable(
            environment=to.get("environment", False),
            hosts=_hosts(to.get("hosts", ()), origin, key, name, "hosts"),
        )
        for name, to in listed.items()
    }


def _size(written: str, origin: Origin, key: str) -> float:
    size = size_bytes(written)
    if size is None:
        raise PolicyError(f"{origin.at(key)}: {shown(written)} is not a size such as 512m or 8g")
    return size


#: How the keys are read that are more than plain values.
_READERS: Final[Mapping[str, Callable[[Any, Origin, str], Any]]] = {
    "images": _images,
    "volumes": _folders,
    "capabilities": lambda listed, _origin, _key: tuple(map(capability, listed)),
    "memory": _size,
    "shm_size": _size,
    "pids": lambda number, _origin, _key: whole(number),
    "gpus": lambda number, _origin, _key: whole(number),
    "variables": _variables,
    "urls": _hosts,
    "storage": _hosts,
}


def _require_digests(images: Mapping[str, Image], origin: Origin) -> None:
    """Refuse patterns that no image with a digest matches."""
    for index, (written, pattern) in enumerate(images.items()):
        if pattern.digest is None and pattern.tag not in {None, "*"}:
            repository = written.rpartition(":")[0]
            raise PolicyError(
                f"{origin.at('images', index)}: {written!r} names a tag, which no image with a "
                f"digest matches, and require_digest is true; write {repository!r} or "
                f"'{repository}@sha256:…'"
            )


def _folder(written: str, where: str) -> Folder:
    name, colon, mode = written.partition(":")
    if colon and mode not in {"ro", "rw"}:
        raise PolicyError(
            f"{where}: {written!r} is not /FOLDER, /FOLDER:rw or the name of a volume; a place in "
            "the container says nothing here"
        )
    if not name.startswith("/") and ("/" in name or not name[:1].isalnum()):
        raise PolicyError(f"{where}: {written!r} is not an absolute path, nor the name of a volume")
    path = Path(name).resolve() if name.startswith("/") else None
    return Folder(written=written, name=name, path=path, writable=mode == "rw")
