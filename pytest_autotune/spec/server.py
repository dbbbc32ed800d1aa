"""The ``server`` block of a spec: the inference server that a trial needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pytest_autotune.engines.presets import (
    FalseStyle,
    FlagStyle,
    ListStyle,
    Preset,
    PresetError,
    canonical_name,
    load,
    names,
)
from pytest_autotune.errors import SpecError
from pytest_autotune.space.expressions import identifier
from pytest_autotune.spec.quantization import declared_quantization
from pytest_autotune.text.places import Origin
from pytest_autotune.text.suggest import did_you_mean, shown
from pytest_autotune.text.values import whole

Backend = Literal["docker", "process", "url"]
_MODES: Final[Mapping[str, Backend]] = {
    "docker": "docker",
    "local": "process",
    "process": "process",
    "url": "url",
}
#: Which keys make sense for which backend only.
_ONLY: Final[Mapping[Backend, tuple[str, ...]]] = {
    "docker": (
        "image", "entrypoint", "volumes", "shm_size", "ipc", "memory", "cpus", "network",
        "pull", "container_port", "user", "pids", "capabilities",
    ),
    "process": ("working_directory",),
    "url": ("url",),
}  # fmt: skip
_URL_SECONDS: Final = 10.0
#: The most processes and threads of a container, by default. Engines on many GPUs have thousands.
PIDS: Final = 16384
#: Placeholders of a command that are no parameters.
_RESERVED: Final = frozenset({"flags", "host", "port", "python"})
_SIZE: Final = re.compile(r"^(\d+(?:\.\d+)?)\s*([bkmgt]?)b?$(?!\n)", re.IGNORECASE)
_UNITS: Final = "bkmgt"


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """The server of a trial. Times are in seconds; sizes are written as for Docker.

    ``command`` may hold ``{parameter}``, ``{model}``, ``{host}`` and ``{port}``. Parameters that
    no placeholder uses become flags, at the end or in place of the argument ``{flags}``.
    ``flags`` renames parameters, or with None keeps them from the server. ``capabilities`` are
    those that a container keeps.
    """

    origin: Origin
    backend: Backend
    preset: Preset | None = None
    model: str | None = None
    image: str | None = None
    entrypoint: Sequence[str] | None = None
    command: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    shm_size: str | None = None
    ipc: str | None = None
    gpus: str | int | Sequence[str] | None = None
    memory: str | None = None
    cpus: float | None = None
    pids: int = PIDS
    capabilities: Sequence[str] = ()
    user: str | None = None
    network: str | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    container_port: int = 8000
    health: str = "/health"
    url: str | None = None
    api_key: str | None = None
    startup_timeout: float = 600.0
    stop_timeout: float = 10.0
    flag_style: FlagStyle = "as_given"
    false_flags: FalseStyle = "omit"
    list_style: ListStyle = "spaces"
    flags: Mapping[str, str | None] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    reuse: bool = False
    working_directory: str = "."
    explicit: bool = True

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from."""
        return Path(self.origin.folder)

    @property
    def without_gpus(self) -> bool:
        """True if the spec says that the server gets no GPU."""
        return isinstance(self.gpus, str | int) and str(self.gpus) in {"none", "0"}

    def at(self, *parts: str | int) -> str:
        """Return ``file: /json/pointer`` of a value in the server block."""
        return self.origin.at("server", *parts)


def read_server(document: Mapping[str, Any], origin: Origin) -> ServerSpec | None:
    """Read the server of a schema-valid ``document``, None if it has none.

    A task file without the block says it by ``base_runtime``, ``runtime_image_tag`` and
    ``deployment_mode``. Raises :class:`SpecError`.
    """
    block = document.get("server")
    runtime = document.get("base_runtime")
    if runtime is not None and canonical_name(runtime) not in names():
        runtime = None
    if block is None:
        if runtime is None:
            return None
        block = {}
    preset = _preset(block, runtime, origin)
    backend = _backend(document, block, preset, origin)
    _refuse_misplaced(block, backend, origin)
    values = {key: value for key, value in block.items() if key not in {"preset", "backend"}}
    if preset is not None:
        values = _from_preset(preset, backend, document) | values
    if "pids" in values:
        values["pids"] = whole(values["pids"])
    if "capabilities" in values:
        values["capabilities"] = tuple(map(capability, values["capabilities"]))
    if backend == "url":
        # It is up already, or somebody should know soon.
        values.setdefault("startup_timeout", _URL_SECONDS)
    named = document.get("model", {})
    model = named.get("id_or_path", named.get("name"))
    spec = ServerSpec(
        origin=origin, backend=backend, preset=preset, model=model,
        explicit="server" in document, **values,
    )  # fmt: skip
    _check(spec, document)
    return spec


def capability(name: str) -> str:
    """Return a capability's full name, by which the engine knows it, too."""
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def _preset(block: Mapping[str, Any], runtime: str | None, origin: Origin) -> Preset | None:
    name = block.get("preset", runtime)
    if name is None:
        return None
    where = origin.at("server", "preset") if "preset" in block else origin.at("base_runtime")
    try:
        return load(name, Path(origin.folder))
    except PresetError as error:
        raise SpecError(f"{where}: {error}{did_you_mean(name, names())}") from None


def _backend(
    document: Mapping[str, Any], block: Mapping[str, Any], preset: Preset | None, origin: Origin
) -> Backend:
    chosen: Backend | None = block.get("backend")
    if chosen is not None:
        return chosen
    if "url" in block:
        return "url"
    if "image" in block:
        return "docker"
    mode = document.get("deployment_mode", "")
    if mode in _MODES:
        return _MODES[mode]
    if "command" in block:
        return "process"
    if preset is not None:
        return "docker" if preset.image is not None else "process"
    raise SpecError(
        f"{origin.at('server')}: says neither what to run nor where it runs; give 'image' (and "
        "'command'), 'command' alone for a local process, 'url', or a 'preset'"
    )


def _refuse_misplaced(block: Mapping[str, Any], backend: Backend, origin: Origin) -> None:
    for other, keys in _ONLY.items():
        for key in keys:
            if other != backend and key in block:
                raise SpecError(
                    f"{origin.at('server', key)}: applies to the backend {other!r} only, and "
                    f"this one is {backend!r}"
                )


def _from_preset(preset: Preset, backend: Backend, document: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "health": preset.health,
        "flag_style": preset.flags,
        "false_flags": preset.false,
        "list_style": preset.lists,
        "command": preset.command.get(backend, ()),
    }
    if backend == "docker":
        tag = document.get("runtime_image_tag") or preset.tag
        values |= {
            "image": f"{preset.image}:{tag}" if preset.image and tag else preset.image,
            "entrypoint": preset.entrypoint,
            "container_port": preset.port,
            "shm_size": preset.shm_size,
            "ipc": preset.ipc,
        }
    return values


def _check(spec: ServerSpec, document: Mapping[str, Any]) -> None:
    if spec.backend == "docker" and not spec.image:
        raise SpecError(f"{spec.at()}: the docker backend needs an 'image'")
    if spec.backend == "process" and not spec.command:
        raise SpecError(
            f"{spec.at()}: the process backend needs a 'command', as a list of arguments"
        )
    if spec.backend == "url" and not _is_address(str(spec.url or "")):
        raise SpecError(
            f"{spec.at('url')}: {shown(spec.url)} is not an http:// or https:// address"
        )
    _check_values(spec)
    parameters = {identifier(name) for name in document.get("parameters", {})}
    clash = sorted(parameters & _RESERVED) if spec.backend != "url" else []
    if clash:
        raise SpecError(
            f"{spec.origin.at('parameters', clash[0])}: {clash[0]!r} has a meaning in "
            "server.command; rename it"
        )
    wants_model = any("{model}" in part for part in spec.command) and "model" not in parameters
    if wants_model and spec.model is None and spec.explicit:
        raise SpecError(f"{spec.at('command')}: uses {{model}}, but model.id_or_path is not given")
    known = {identifier(name) for name in _parameter_names(document)}
    for name in spec.flags:
        if identifier(name) not in known:
            close = did_you_mean(name, _parameter_names(document))
            raise SpecError(f"{spec.at('flags', name)}: there is no parameter {name!r}{close}")


def _check_values(spec: ServerSpec) -> None:
    """Refuse names of variables and sizes that are none."""
    for name in spec.environment:
        # As no process has one; in a container, what follows the = would become the value.
        if not name or {"=", "\0"} & set(name):
            raise SpecError(
                f"{spec.at('environment')}: {shown(name)} is not the name of a variable; it must "
                "not be empty, nor contain '='"
            )
    for key in ("shm_size", "memory"):
        size = getattr(spec, key)
        if size is not None and size_bytes(str(size)) is None:
            raise SpecError(f"{spec.at(key)}: {shown(size)} is not a size such as 512m or 8g")


def size_bytes(size: str) -> float | None:
    """Return a size that is written as for Docker in bytes, None for what is no size."""
    found = _SIZE.match(size)
    if found is None:
        return None
    return float(found[1]) * 1024.0 ** _UNITS.index(found[2].lower() or "b")


def _is_address(url: str) -> bool:
    """Return whether a URL names a host that requests can go to, and no more than that host."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        split = urlsplit(url)
        named = bool(split.hostname) and split.port != 0
    except ValueError:
        return False
    # The lines of a request are made of it; and at a backslash, clients do not agree on the host.
    return named and url.isascii() and url.isprintable() and not {" ", "\\"} & set(url)


def _parameter_names(document: Mapping[str, Any]) -> list[str]:
    return [
        *document.get("parameters", {}),
        *document.get("parallel_config", {}),
        *declared_quantization(document),
    ]
