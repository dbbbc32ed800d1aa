"""The texts of a ``server`` block that a trial's parameters are filled into."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_autotune.engines.flags import fill, placeholders, text_of
from pytest_autotune.errors import LaunchError
from pytest_autotune.space.expressions import identifier
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.text.suggest import did_you_mean

#: Filled in when the port is known.
LATE: Final = frozenset({"host", "port"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What a trial's server asks of its machine, with its parameters filled in.

    ``environment`` still holds ``${NAME}`` of this machine's environment, None takes a variable
    away.
    """

    image: str | None
    volumes: tuple[str, ...]
    environment: Mapping[str, str | None]


def values_of(spec: ServerSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of placeholders, parameters also under their identifiers."""
    values = {**({"model": spec.model} if spec.model is not None else {}), **params}
    for name in list(values):
        values.setdefault(identifier(name), values[name])
    return values


def fill_text(
    spec: ServerSpec, text: str, values: Mapping[str, Any], where: tuple[str | int, ...]
) -> str:
    """Fill the placeholders of a text; raise :class:`LaunchError` for one without a value."""
    known = {**values, **{name: f"{{{name}}}" for name in LATE}}
    if spec.backend == "process":
        known.setdefault("python", sys.executable)
    try:
        return fill(text, known)
    except KeyError as error:
        name = error.args[0]
        if name == "flags":
            raise LaunchError(
                f"{spec.at(*where)}: {{flags}} must be an argument of its own"
            ) from None
        listed = ", ".join(sorted({*known, "flags"}))
        raise LaunchError(
            f"{spec.at(*where)}: {{{name}}} is no parameter of this trial"
            f"{did_you_mean(name, known)}; known: {listed}"
        ) from None


def filled(spec: ServerSpec, values: Mapping[str, Any]) -> Filled:
    """Fill in what the server asks of its machine; raise :class:`LaunchError`."""
    return Filled(
        environment={
            name: None if v is None else fill_text(spec, text_of(v), values, ("environment", name))
            for name, v in environment_of(spec).items()
        },
        volumes=tuple(
            fill_text(spec, written, values, ("volumes", index))
            for index, written in enumerate(spec.volumes)
        ),
        image=None if spec.image is None else fill_text(spec, spec.image, values, ("image",)),
    )


def filled_by(spec: ServerSpec) -> frozenset[str]:
    """Return the identifiers of the placeholders in what :func:`filled` fills."""
    return frozenset(map(identifier, placeholders(list(_texts(spec)))))


def environment_of(spec: ServerSpec) -> Mapping[str, str | None]:
    """Return the environment that the preset and the spec give a server."""
    preset = {} if spec.preset is None else spec.preset.environment
    return {**preset, **spec.environment}


def _texts(spec: ServerSpec) -> Iterator[str]:
    given = (*environment_of(spec).values(), *spec.volumes, spec.image)
    return (text_of(value) for value in given if value is not None)
