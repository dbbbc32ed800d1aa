"""The part of a spec's space that this machine can run."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.gpu.needs import gpu_limit
from pytest_autotune.space.effort import MAX_STEPS
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.sampling import is_empty
from pytest_autotune.spec.build import place_of
from pytest_autotune.spec.model import EngineRule, Spec
from pytest_autotune.study.environment import visible_gpus
from pytest_autotune.study.settings import Settings

#: So many constraints are named in a message.
_SHOWN: Final = 5


def is_measured(spec: Spec, settings: Settings) -> bool:
    """Return whether trials run here; results that are replayed are another machine's."""
    return settings.replay is None and spec.replay is None


def on_this_machine(spec: Spec) -> Spec:
    """Return ``spec`` with this machine's numbers, without what its engine cannot do.

    Raises :class:`SpecError` where nothing is left.
    """
    space = spec.space
    # Asking the driver costs time, so it is asked only for an expression that reads it.
    reads = any("gpus" in expression.names for expression in space.expressions())
    machine = {"cpus": os.cpu_count() or 1, "gpus": visible_gpus() if reads else 0}
    spec = replace(spec, space=replace(space, variables=machine))
    _require_points(spec)
    for rule in spec.rules:
        spec = _restricted(spec, rule)
    return spec


def fit_to_machine(spec: Spec, gpus: str | None = None) -> Spec:
    """Return ``spec`` without the points that need more GPUs than its trials can have here.

    ``spec`` is from :func:`on_this_machine`. ``gpus`` is the number that the tests themselves
    need, as an expression over parameters. Raises :class:`SpecError` where nothing is left.
    """
    spec = _fit_server(spec)
    there = visible_gpus() if gpus is not None else 0
    if not there:
        return spec
    needed = Expression.parse(str(gpus))
    reason = f"the tests need {needed.source} GPUs, and there are {there} to use"
    if not needed.names:
        if not isinstance(needed.value({}), int | float) or needed.value({}) > there:
            raise SpecError(f"{spec.origin.at()}: {reason}")
        return spec
    require = Expression.parse(f"({needed.source}) <= {there}")
    return _restricted(spec, EngineRule(where=spec.origin.at(), require=require, reason=reason))


def _fit_server(spec: Spec) -> Spec:
    server = spec.server
    if server is None or not server.explicit or server.backend == "url":
        return spec
    limit = gpu_limit(server, visible_gpus())
    if limit is None:
        return spec
    engine = server.preset.title if server.preset is not None else "the server"
    reason = (
        f"{engine} needs {spec.layout.world_size} GPUs, at least 1, and there are {limit} to use"
    )
    hint = "; lower parallel_config, or set server.gpus ('none' for an engine that runs on the CPU)"
    rule = spec.layout.within(limit)
    if rule is None:
        if spec.layout.gpus({}) > limit:
            raise SpecError(f"{server.at()}: {reason}{hint}")
        return spec
    require = Expression.parse(rule)
    return _restricted(spec, EngineRule(where=server.at(), require=require, reason=reason), hint)


def _require_points(spec: Spec) -> None:
    """Refuse a space whose constraints leave nothing, with the numbers of this machine."""
    space = spec.space
    if not space.parameters:
        return
    try:
        empty = is_empty(space)
    except ExpressionError as error:
        raise SpecError(f"{place_of(error, space, spec.origin)}: {error}") from None
    if empty:
        used = {
            k: v for k, v in space.variables.items() if any(k in c.names for c in space.constraints)
        }
        given = f" (with {', '.join(f'{k} = {v}' for k, v in used.items())})" if used else ""
        found = "" if space.pool is not None else f" was found in {MAX_STEPS} steps that"
        sources = [repr(constraint.source) for constraint in space.constraints]
        more = f" and {len(sources) - _SHOWN} more" if len(sources) > _SHOWN else ""
        raise SpecError(
            f"{spec.origin.at('constraints')}: no combination of the parameters{found} satisfies "
            f"{' and '.join(sources[:_SHOWN])}{more}{given}"
        )


def _restricted(spec: Spec, rule: EngineRule, hint: str = "") -> Spec:
    """Return ``spec`` without the points that break a rule, and a notice if there are any.

    A rule that excludes nothing is not kept. Raises :class:`SpecError` where nothing is left.
    """
    space = spec.space
    if not space.parameters:
        return spec
    allowed = replace(space, constraints=(*space.constraints, rule.require))
    try:
        empty = is_empty(allowed)
    except ExpressionError as error:
        raise SpecError(f"{rule.where}: {error} ({rule.reason})") from None
    if empty:
        raise SpecError(
            f"{rule.where}: no combination of the parameters is left: {rule.reason}{hint}"
        )
    if allowed.pool is not None and len(allowed.pool) == len(space.pool or ()):
        return spec
    notice = f"combinations are left out, as {rule.reason}"
    return replace(spec, space=allowed, notices=(*spec.notices, notice))
