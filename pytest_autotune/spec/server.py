"""The ``server`` block of a spec: which inference server a trial needs, and what it forbids."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final, Literal

from pytest_autotune.engines import (
    PARALLEL,
    QUANTIZED,
    WORLD_SIZE,
    FalseStyle,
    FlagStyle,
    ListStyle,
    Mapped,
    Preset,
    PresetError,
    canonical_name,
    load,
    names,
    parts_of,
)
from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.text.places import Origin
from pytest_autotune.text.suggest import did_you_mean, shown

#: Parameters that a preset writes in its own way, wherever they are declared.
MAPPED: Final = frozenset({*PARALLEL, *QUANTIZED, "quant_config"})
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
        "pull", "container_port", "user",
    ),
    "process": ("working_directory",),
    "url": ("url",),
}  # fmt: skip
_URL_SECONDS: Final = 10.0
#: Placeholders of a command that are no parameters.
_RESERVED: Final = frozenset({"flags", "host", "port", "python"})
_HOST_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SIZE: Final = re.compile(r"^\d+(\.\d+)?\s*([bkmgt]b?)?$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How to get a server for a trial. Times in seconds; sizes as Docker writes them.

    ``command`` may hold ``{parameter}``, ``{model}``, ``{host}``, ``{port}`` and, as an
    argument of its own, ``{flags}``, in whose place (or else at the end) the parameters go that
    no placeholder uses. ``flags`` renames parameters, or with None keeps them from the server.
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
        """Whether the spec says that the server gets no GPU."""
        return isinstance(self.gpus, str | int) and str(self.gpus) in {"none", "0"}

    def at(self, *parts: str | int) -> str:
        """Return ``file: /json/pointer`` of a value in the server block."""
        return self.origin.at("server", *parts)


def read_server(document: Mapping[str, Any], origin: Origin) -> ServerSpec | None:
    """Read what a schema-valid ``document`` says of its server, None if nothing.

    A task file without the block says it by ``base_runtime``, ``runtime_image_tag`` and
    ``deployment_mode``. Raises :class:`SpecError`.
    """
    block = document.get("server")
    runtime = document.get("base_runtime")
    if block is None:
        if runtime is None or canonical_name(runtime) not in names():
            return None
        block = {}
    preset = _preset(block, runtime, origin)
    backend = _backend(document, block, preset, origin)
    _refuse_misplaced(block, backend, origin)
    values = {key: value for key, value in block.items() if key not in {"preset", "backend"}}
    if preset is not None:
        values = _from_preset(preset, backend, document) | values
    if backend == "url":
        # It is up already, or somebody should know soon.
        values.setdefault("startup_timeout", _URL_SECONDS)
    model = document.get("model", {}).get("id_or_path")
    spec = ServerSpec(
        origin=origin, backend=backend, preset=preset, model=model,
        explicit="server" in document, **values,
    )  # fmt: skip
    _check(spec, document)
    return spec


def _preset(block: Mapping[str, Any], runtime: str | None, origin: Origin) -> Preset | None:
    name = block.get("preset")
    where = origin.at("server", "preset")
    if name is None:
        if runtime is None or canonical_name(runtime) not in names():
            return None
        name, where = runtime, origin.at("base_runtime")
    try:
        return load(name, Path(origin.folder))
    except PresetError as error:
        msg = f"{where}: {error}{did_you_mean(name, names())}"
        raise SpecError(msg) from None


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
    msg = (
        f"{origin.at('server')}: says neither what to run nor where it runs; give 'image' (and "
        "'command'), 'command' alone for a local process, 'url', or a 'preset'"
    )
    raise SpecError(msg)


def _refuse_misplaced(block: Mapping[str, Any], backend: Backend, origin: Origin) -> None:
    for other, keys in _ONLY.items():
        for key in keys:
            if other != backend and key in block:
                msg = (
                    f"{origin.at('server', key)}: applies to the backend {other!r} only, and "
                    f"this one is {backend!r}"
                )
                raise SpecError(msg)


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
        msg = f"{spec.at()}: the docker backend needs an 'image'"
        raise SpecError(msg)
    if spec.backend == "process" and not spec.command:
        msg = f"{spec.at()}: the process backend needs a 'command', as a list of arguments"
        raise SpecError(msg)
    if spec.backend == "url" and not str(spec.url or "").startswith(("http://", "https://")):
        msg = f"{spec.at('url')}: {shown(spec.url)} is not an http:// or https:// address"
        raise SpecError(msg)
    for key in ("shm_size", "memory"):
        size = getattr(spec, key)
        if size is not None and not _SIZE.match(str(size)):
            msg = f"{spec.at(key)}: {shown(size)} is not a size such as 512m or 8g"
            raise SpecError(msg)
    parameters = {identifier(name) for name in document.get("parameters", {})}
    clash = sorted(parameters & _RESERVED) if spec.backend != "url" else []
    if clash:
        msg = (
            f"{spec.origin.at('parameters', clash[0])}: {clash[0]!r} has a meaning in "
            "server.command; rename it"
        )
        raise SpecError(msg)
    wants_model = any("{model}" in part for part in spec.command) and "model" not in parameters
    if wants_model and spec.model is None and spec.explicit:
        msg = f"{spec.at('command')}: uses {{model}}, but model.id_or_path is not given"
        raise SpecError(msg)
    known = {identifier(name) for name in _parameter_names(document)}
    for name in spec.flags:
        if identifier(name) not in known:
            msg = f"{spec.at('flags', name)}: there is no parameter {name!r}"
            raise SpecError(msg + did_you_mean(name, _parameter_names(document)))
    _check_mapped(spec, document)


def _parameter_names(document: Mapping[str, Any]) -> list[str]:
    quantized = document.get("quant_config", {})
    return [
        *document.get("parameters", {}),
        *document.get("parallel_config", {}),
        *(quantized if isinstance(quantized, Mapping) else ["quant_config"]),
    ]


def _check_mapped(spec: ServerSpec, document: Mapping[str, Any]) -> None:
    """Refuse values of ``parallel_config`` and ``quant_config`` that the engine cannot do."""
    quantized = document.get("quant_config")
    if spec.backend == "url":
        return
    if spec.preset is None and quantized:
        msg = (
            f"{spec.origin.at('quant_config')}: what it means depends on the engine; "
            f"name it by server.preset ({', '.join(names())})"
        )
        raise SpecError(msg)
    if spec.preset is None:
        return
    for block, name, value in _mapped_values(document):
        if name == "quant_config":
            where = ("parameters", name) if block == "parameters" else (name,)
            quant_parts(spec.preset, value, spec.origin.at(*where))
            continue
        entry = (parallel_entry if name in PARALLEL else quant_entry)(spec.preset, name, value)
        if entry.unsupported:
            msg = (
                f"{spec.origin.at(block, name)}: {spec.preset.title} cannot do {name} = "
                f"{shown(value)}: {entry.unsupported}"
            )
            raise SpecError(msg)


def _mapped_values(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield block, name and every listed value of what a preset writes in its own way."""
    quantized = document.get("quant_config", {})
    blocks: dict[str, Mapping[str, Any]] = {
        "parameters": {
            identifier(name): declared
            for name, declared in document.get("parameters", {}).items()
            if identifier(name) in MAPPED
        },
        "parallel_config": document.get("parallel_config", {}),
        "quant_config": quantized
        if isinstance(quantized, Mapping)
        else {"quant_config": quantized},
    }
    for block, entries in blocks.items():
        for name, declared in entries.items():
            if isinstance(declared, Mapping):
                values = declared.get("values", declared.get("choices", ()))
                declared = [*values, *(declared[k] for k in ("low", "high") if k in declared)]  # noqa: PLW2901
            for value in _listed(declared):
                yield block, name, value


def quant_conflicts(
    spec: ServerSpec | None, document: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what two parts must not be together, as they set one flag to different values."""
    if spec is None or spec.preset is None or spec.backend == "url":
        return
    declared: dict[str, list[Any]] = {}
    for _, name, value in _mapped_values(document):
        if name in QUANTIZED:
            declared.setdefault(name, []).append(value)
    for one, other in combinations(declared, 2):
        for left, right in product(declared[one], declared[other]):
            flag = _shared_flag(
                quant_entry(spec.preset, one, left), quant_entry(spec.preset, other, right)
            )
            if flag:
                yield (
                    f"{one} != {left!r} or {other} != {right!r}",
                    f"{spec.preset.title} has one {flag} for {one} {left} and {other} {right}",
                )


def _shared_flag(one: Mapped, other: Mapped) -> str:
    ours, theirs = (
        {flag: values for flag, *values in parts_of(entry.arguments)} for entry in (one, other)
    )
    return next((f for f in ours if f in theirs and ours[f] != theirs[f]), "")


def _listed(declared: Any) -> list[Any]:
    return list(declared) if isinstance(declared, list | tuple) else [declared]


def parallel_entry(preset: Preset, name: str, value: int) -> Mapped:
    """Return how the engine is told a parallel dimension; 1 needs no telling where it cannot."""
    entry = preset.parallel_config.get(name)
    if entry is None:
        entry = Mapped(unsupported="the preset has no flag for it")
    return Mapped() if entry.unsupported and value == 1 else entry


def quant_entry(preset: Preset, part: str, value: str) -> Mapped:
    """Return how the engine is told the type of one part."""
    mapping = preset.quant_config.get(part, "the preset has no flag for it")
    if isinstance(mapping, str):
        return Mapped(unsupported=mapping)
    known = ", ".join(mapping)
    return mapping.get(value, Mapped(unsupported=f"known: {known}"))


def quant_parts(preset: Preset, name: str, where: str) -> Mapping[str, str]:
    """Return the parts of a named quantization; raise :class:`SpecError` if it is unknown."""
    parts = preset.quant_presets.get(name)
    if parts is None:
        msg = (
            f"{where}: unknown quantization {name!r}{did_you_mean(name, preset.quant_presets)}; "
            f"known for {preset.title}: {', '.join(preset.quant_presets)}"
        )
        raise SpecError(msg)
    for part, value in parts.items():
        entry = quant_entry(preset, part, value)
        if entry.unsupported:
            msg = f"{where}: {preset.title} cannot do {name!r}: {part} {value}: {entry.unsupported}"
            raise SpecError(msg)
    return parts


# Parallel layouts


def parallel_names(spec: ServerSpec | None, document: Mapping[str, Any]) -> dict[str, str]:
    """Return which parameter stands for which parallel dimension, as identifiers.

    Besides ``parallel_config`` that is a plain parameter with the name of the engine's flag.
    """
    found = {name: name for name in document.get("parallel_config", {}) if name in PARALLEL}
    if spec is not None:
        for name in document.get("parameters", {}):
            dimension = _dimension(spec, name)
            if dimension is not None:
                found.setdefault(dimension, identifier(name))
    return found


def _dimension(spec: ServerSpec, name: str) -> str | None:
    """Return the parallel dimension that a flag sets, by our name for it or the engine's."""
    key = identifier(name)
    if key in PARALLEL:
        return key
    aliases = spec.preset.aliases if spec.preset is not None else {}
    return next((d for d, names in aliases.items() if key in map(identifier, names)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a server's parallel layout must satisfy.

    ``world_size`` and ``rules`` (expression and message) are over dimensions; ``names`` says
    what parameter stands for which, ``fixed`` what size those have that the spec fixes.
    """

    names: Mapping[str, str]
    world_size: str
    fixed: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[tuple[str, str], ...] = ()

    def scope(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return every dimension's size for the parameters of a trial, 1 where it has none."""
        given = {identifier(name): value for name, value in params.items()}
        return {
            name: given.get(self.names.get(name, ""), self.fixed.get(name, 1)) for name in PARALLEL
        }

    def gpus(self, params: Mapping[str, Any]) -> int:
        """Return how many GPUs a trial uses, at least 1."""
        try:
            return max(1, int(Expression.parse(self.world_size).value(self.scope(params))))
        except ExpressionError:
            return 1

    def expression(self) -> str:
        """Return how many GPUs a trial uses, as an expression over parameters."""
        return self._in_parameters(self.world_size)

    def constraints(self) -> Iterator[tuple[str, str]]:
        """Yield the engine's rules in terms of parameters, each with the reason in words."""
        for source, message in self.rules:
            if _uses(source, self.names):
                yield self._in_parameters(source), message

    def within(self, gpus: int) -> str | None:
        """Return the rule that no more than ``gpus`` are used, None where no parameter matters."""
        if not _uses(self.world_size, self.names):
            return None
        return f"({self._in_parameters(self.world_size)}) <= {gpus}"

    def _in_parameters(self, source: str) -> str:
        """Write a rule over dimensions as one over parameters, sizes for what there is none of."""
        pattern = re.compile(rf"\b({'|'.join(PARALLEL)})\b")
        sizes = {name: str(self.fixed.get(name, 1)) for name in PARALLEL}
        return pattern.sub(lambda match: self.names.get(match[1], sizes[match[1]]), source)


def layout(spec: ServerSpec | None, document: Mapping[str, Any]) -> Layout:
    """Return the layout that the spec's engine allows."""
    preset = spec.preset if spec is not None else None
    source = preset.world_size if preset is not None else WORLD_SIZE
    rules = preset.constraints if preset is not None else ()
    arguments = spec.arguments if spec is not None else {}
    fixed = {
        dimension: value
        for name, value in arguments.items()
        if spec is not None
        and (dimension := _dimension(spec, name)) is not None
        and isinstance(value, int)
    }
    return Layout(
        names=parallel_names(spec, document),
        fixed=fixed,
        world_size=source,
        rules=tuple((rule.require, rule.message) for rule in rules),
    )


def _uses(source: str, names: Mapping[str, str]) -> bool:
    return any(name in names for name in Expression.parse(source).names)


def gpu_limit(spec: ServerSpec | None, visible: int) -> int | None:
    """Return how many GPUs a trial may use, None where that is nobody's business here.

    ``visible`` is how many this process sees.
    """
    if spec is None or spec.backend == "url" or spec.without_gpus:
        return None
    if isinstance(spec.gpus, int):
        return spec.gpus
    if spec.gpus is not None and not isinstance(spec.gpus, str):
        return len(spec.gpus)
    if spec.preset is None or spec.preset.gpus != "required" or is_remote(spec):
        return visible if spec.gpus == "all" and not is_remote(spec) else None
    return visible


def is_without_our_gpus(spec: ServerSpec) -> bool:
    """Tell whether the server runs on no GPU of this machine, whatever its layout."""
    return spec.backend == "url" or spec.without_gpus or is_remote(spec)


def is_remote(spec: ServerSpec) -> bool:
    """Tell whether the server will run on another machine's container engine."""
    engine = os.environ.get("DOCKER_HOST", "")
    return spec.backend == "docker" and not engine.startswith(("", "unix:")[bool(engine)])


def expand_host_variables(text: str, where: str) -> str:
    """Replace ``${NAME}`` by the environment's; raise :class:`SpecError` if it is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            msg = f"{where}: the environment has no variable {match[1]}; set it, or drop it here"
            raise SpecError(msg)
        return found

    return _HOST_VARIABLE.sub(value, text)
