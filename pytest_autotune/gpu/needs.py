"""The number of GPUs that the trials of a spec need."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from itertools import product
from typing import Any

from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.gpu.allocation import NONE, Need
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.space.sampling import example
from pytest_autotune.spec.model import Spec
from pytest_autotune.spec.server import ServerSpec
from pytest_autotune.text.suggest import nearest


def marked_gpus(value: object, spec: Spec, where: str) -> str:
    """Return the marker's ``gpus`` as an expression over parameters; raise :class:`SpecError`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if not isinstance(value, str):
        raise SpecError(f"{where}: gpus={value!r} is neither a whole number nor an expression")
    try:
        expression = Expression.parse(value)
    except ExpressionError as error:
        raise SpecError(f"{where}: gpus: {error}") from None
    known = [identifier(name) for name in spec.space.names]
    for name in sorted(expression.names):
        if name not in known:
            raise SpecError(
                f"{where}: gpus: unknown name {name!r} in {value!r}{nearest(name, known)}"
            )
    _count(expression.source, spec, example(spec.space))
    return expression.source


def layout_gpus(spec: Spec) -> str | None:
    """Return the number of GPUs of a trial's parallel layout, as an expression over parameters.

    None if the spec has no layout, or its server does not run on GPUs of this machine. It does not
    depend on which tests use GPUs, as their selection must not change the space.
    """
    elsewhere = spec.server is not None and is_without_our_gpus(spec.server)
    return spec.layout.expression() if spec.layout.names and not elsewhere else None


def needed_gpus(
    spec: Spec, params: Mapping[str, Any], marked: str | None, fixtures: Collection[str]
) -> Need:
    """Return the GPUs that a trial needs: by its marker, its server, or its parallel layout.

    ``fixtures`` are those of its tests. Raises :class:`SpecError` if ``marked`` does not give a
    number.
    """
    if not {"gpu", "gpu_benchmark", "inference_server"}.intersection(fixtures):
        return NONE
    if marked is not None:
        count = _count(marked, spec, params)
        return Need(count=count, required="gpu" in fixtures and count > 0)
    by_tests = "gpu" in fixtures or "gpu_benchmark" in fixtures
    layout = Need(count=spec.layout.gpus(params), required="gpu" in fixtures)
    server = spec.server if "inference_server" in fixtures else None
    if server is None or is_without_our_gpus(server):
        return layout if by_tests else NONE
    match server.gpus:
        case None:
            # A container gets none unless its engine cannot do without.
            engine = server.preset is not None and server.preset.gpus == "required"
            return layout if by_tests or engine or server.backend == "process" else NONE
        case int(count):
            return Need(count=count, required=layout.required)
        case str():  # "all": "none" was seen to above
            return Need(count=None, required=layout.required)
        case names:
            return Need(named=tuple(names), required=layout.required)


def _count(marked: str, spec: Spec, params: Mapping[str, Any]) -> int:
    scope = {identifier(name): value for name, value in params.items()}
    value = Expression.parse(marked).value(scope)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value) or value < 0:
        raise SpecError(
            f"{spec.origin.at()}: gpus={marked!r} gives {value!r} for this trial, which is no "
            "number of GPUs"
        )
    return int(value)


def largest_need(spec: Spec, most: int) -> int:
    """Return the number of GPUs of a spec's largest trials, of those within ``most``.

    It is the number that its server asks for, or that its largest layout takes.
    """
    asked = None if spec.server is None else spec.server.gpus
    if asked == "all":
        return most
    if isinstance(asked, int):
        return min(max(asked, 1), most)
    if isinstance(asked, list | tuple):
        return min(len(asked), most)
    names = set(spec.layout.names.values())
    searched = [
        parameter
        for parameter in spec.space.parameters
        if identifier(parameter.name) in names and parameter.listed
    ]
    sizes = (
        spec.layout.gpus(dict(zip((p.name for p in searched), values, strict=True)))
        for values in product(*(p.listed for p in searched))
    )
    return max((size for size in sizes if size <= most), default=1)


def gpu_limit(spec: ServerSpec | None, visible: int) -> int | None:
    """Return the number of GPUs that a trial may use, None where they need not be of this machine.

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
    """Return whether the server runs on no GPU of this machine, whatever its layout."""
    return spec.backend == "url" or spec.without_gpus or is_remote(spec)


def is_remote(spec: ServerSpec) -> bool:
    """Return whether the server will run on another machine's container engine."""
    engine = os.environ.get("DOCKER_HOST", "")
    return spec.backend == "docker" and engine != "" and not engine.startswith("unix:")
