"""The launch of a server: a trial's parameters filled into the spec's ``server`` block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_autotune.engines.flags import PLACEHOLDER, arguments, fill, placeholders, text_of
from pytest_autotune.engines.presets import MAPPED, PARALLEL, Mapped, parts_of
from pytest_autotune.policy.policies import NO_POLICIES, Policies
from pytest_autotune.serving.volumes import volume
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.spec.layout import Layout
from pytest_autotune.spec.quantization import quant_parts
from pytest_autotune.spec.server import Backend, ServerSpec
from pytest_autotune.spec.templates import fill_text, filled, values_of
from pytest_autotune.system.variables import expand_api_key, expand_host_variables

FLAGS: Final = "{flags}"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Everything that decides which server runs; equal launches may share one server.

    ``argv`` still holds ``{host}`` and ``{port}``; ``environment`` maps names to values, None
    takes a variable away. ``gpus`` is the world size.
    """

    spec: ServerSpec
    argv: tuple[str, ...]
    environment: Mapping[str, str | None]
    image: str | None
    volumes: tuple[str, ...]
    gpus: int
    api_key: str | None

    @property
    def backend(self) -> Backend:
        """Where the server runs."""
        return self.spec.backend

    @property
    def folder(self) -> Path:
        """The folder that a process runs in, and that its command is relative to."""
        return (self.spec.folder / Path(self.spec.working_directory).expanduser()).resolve()

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that authorize requests."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def command(self, host: str, port: int) -> list[str]:
        """Return the arguments for a server that listens on ``host`` and ``port``."""
        return [_listening(part, host, port) for part in self.argv]

    def variables(self, host: str, port: int) -> Mapping[str, str | None]:
        """Return the environment of a server that listens on ``host`` and ``port``."""
        return {
            name: None if value is None else _listening(value, host, port)
            for name, value in self.environment.items()
        }

    @property
    def is_told_its_port(self) -> bool:
        """Return whether ``{port}`` appears in the command or the environment."""
        texts = (*self.argv, *filter(None, self.environment.values()))
        return "port" in placeholders(texts)

    def reached(self, names: Iterable[str]) -> list[str]:
        """Return the parameters among ``names`` that the server was started with."""
        if self.backend == "url":
            return []
        kept = {identifier(name) for name, flag in self.spec.flags.items() if flag is None}
        used = _placed(self.spec)
        return [n for n in names if identifier(n) in used or identifier(n) not in kept]


def _placed(spec: ServerSpec) -> set[str]:
    """Return the identifiers of the placeholders of a server's templates."""
    given = (*spec.command, *spec.environment.values(), *spec.volumes, spec.image)
    return set(map(identifier, placeholders(text_of(v) for v in given if v is not None)))


def _listening(text: str, host: str, port: int) -> str:
    late = {"host": host, "port": str(port)}
    return PLACEHOLDER.sub(lambda match: late.get(match[1], match[0]), text)


def make_launch(
    spec: ServerSpec,
    params: Mapping[str, Any],
    layout: Layout,
    policies: Policies = NO_POLICIES,
) -> Launch:
    """Fill the spec's templates with ``params``.

    Raises :class:`LaunchError`, and :class:`.PolicyError` where ``policies`` refuse the result.

    Parameters that no placeholder uses become flags, in order: ``parallel_config`` and
    ``quant_config`` as the preset has them, others under their own names.
    """
    values = values_of(spec, params)
    texts = filled(spec, values)
    volumes = tuple(
        volume(written, spec.folder, spec.at("volumes", index))
        for index, written in enumerate(texts.volumes)
    )
    # With the folders that the container gets, wherever links led by now.
    policies.check_launch(spec, replace(texts, volumes=volumes))
    environment = {
        name: None if v is None else expand_host_variables(v, spec.at("environment", name))
        for name, v in texts.environment.items()
    }
    command = [
        part if part == FLAGS else fill_text(spec, part, values, ("command", index))
        for index, part in enumerate(spec.command)
    ]
    api_key = spec.api_key
    if api_key is not None:
        api_key = expand_api_key(api_key, spec.at("api_key"))
    return Launch(
        spec=spec,
        argv=tuple(_with_flags(command, _flags(spec, params))),
        environment=environment,
        image=texts.image,
        volumes=volumes,
        gpus=layout.gpus(params),
        api_key=api_key,
    )


def _flags(spec: ServerSpec, params: Mapping[str, Any]) -> list[str]:
    """Return the arguments of the fixed flags, then of each parameter."""
    used = _placed(spec)
    renamed = {identifier(name): flag for name, flag in spec.flags.items()}

    def written(name: str, value: Any) -> list[str]:
        return arguments(
            name, value,
            style=spec.flag_style, false=spec.false_flags, lists=spec.list_style,
            flag=renamed.get(identifier(name)),
        )  # fmt: skip

    tokens = [token for name, value in spec.arguments.items() for token in written(name, value)]
    passed = {
        name: value
        for name, value in params.items()
        if identifier(name) not in used and renamed.get(identifier(name), "") is not None
    }
    plain = {
        name: written(name, value)
        for name, value in passed.items()
        if spec.preset is None or identifier(name) not in MAPPED or identifier(name) in renamed
    }
    own = {argv[0] for argv in plain.values() if argv}
    seen: set[tuple[str, ...]] = set()
    for name, value in passed.items():
        if name in plain:
            tokens += plain[name]
            continue
        key = identifier(name)
        # Two parts may give the same arguments: once is enough. A flag that is a parameter itself
        # goes before a quantization.
        found = dict.fromkeys(parts_of(_mapped(spec, key, value, params)))
        outranked = own if key not in PARALLEL else ()
        parts = [part for part in found if part not in seen and part[0] not in outranked]
        seen.update(parts)
        tokens += [token for part in parts for token in part]
    return tokens


def _mapped(spec: ServerSpec, name: str, value: Any, params: Mapping[str, Any]) -> list[str]:
    """Return the preset's arguments for a part of ``parallel_config`` or ``quant_config``.

    Parts that are parameters themselves are not taken from a named quantization.
    """
    assert spec.preset is not None
    if name != "quant_config":
        return _arguments(spec.preset.mapped(name, value), name, value)
    where = spec.origin.at("quant_config")
    parts = quant_parts(spec.preset, value, where, set(map(identifier, params)))
    return [
        token
        for part, kind in parts.items()
        for token in _arguments(spec.preset.quantized(part, kind), part, kind)
    ]


def _arguments(entry: Mapped, name: str, value: Any) -> list[str]:
    assert not entry.unsupported, "refused when the spec was read"
    if entry.when is not None and not Expression.parse(entry.when)({name: value}):
        return []
    return [fill(token, {"value": value}) for token in entry.arguments]


def _with_flags(command: Sequence[str], flags: Sequence[str]) -> list[str]:
    if FLAGS not in command:
        return [*command, *flags]
    at = list(command).index(FLAGS)
    return [*command[:at], *flags, *(part for part in command[at + 1 :] if part != FLAGS)]
