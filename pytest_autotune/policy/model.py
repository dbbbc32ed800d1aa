"""A policy as its file has it, with the defaults of what it does not name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    generators: tuple[str, ...] = ()
    command: bool = False
    prepare: bool = False

    def place(self, rule: str) -> str:
        """Return file and line of a rule; only the file where it is the default that holds."""
        found = self.origin.places.get(json_pointer(rule))
        return self.origin.file if found is None else f"{self.origin.file}:{found.line}"


def read_policy(document: Mapping[str, Any], origin: Origin) -> Policy:
    """Read a schema-valid ``document``; raise :class:`PolicyError`."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
    }
    if "images" in values:
        values["images"] = {
            written: _image(written, document, origin.at("images", index))
            for index, written in enumerate(values["images"])
        }
    if "volumes" in values:
        values["volumes"] = tuple(
            _folder(written, origin.at("volumes", index))
            for index, written in enumerate(values["volumes"])
        )
    if "capabilities" in values:
        values["capabilities"] = tuple(map(capability, values["capabilities"]))
    for key in ("memory", "shm_size"):
        if key in values:
            values[key] = _size(values[key], origin.at(key))
    for key in ("pids", "gpus"):
        if key in values:
            values[key] = whole(values[key])
    if "variables" in values:
        values["variables"] = {
            name: Variable(
                environment=to.get("environment", False),
                hosts=_hosts(to.get("hosts", ()), origin, "variables", name, "hosts"),
            )
            for name, to in values["variables"].items()
        }
    if "urls" in values:
        values["urls"] = _hosts(values["urls"], origin, "urls")
    return Policy(origin=origin, **values)


def _hosts(listed: Sequence[str], origin: Origin, *key: str) -> tuple[str, ...]:
    return tuple(read_host(written, origin.at(*key, index)) for index, written in enumerate(listed))


def _image(written: str, document: Mapping[str, Any], where: str) -> Image:
    pattern = Image.parse(written)
    tagged = pattern.digest is None and pattern.tag not in {None, "*"}
    if tagged and document.get("require_digest", False):
        repository = written.rpartition(":")[0]
        raise PolicyError(
            f"{where}: {written!r} names a tag, which no image with a digest matches, and "
            f"require_digest is true; write {repository!r} or '{repository}@sha256:…'"
        )
    return pattern


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


def _size(written: str, where: str) -> float:
    size = size_bytes(written)
    if size is None:
        raise PolicyError(f"{where}: {shown(written)} is not a size such as 512m or 8g")
    return size
