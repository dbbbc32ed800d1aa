"""Check that an entry of the lock file was locked for the present spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_autotune.errors import ExpressionError
from pytest_autotune.gate.lock.entry import LockEntry, LockError, digests_of
from pytest_autotune.gate.lock.lockfile import LOCK_NAME
from pytest_autotune.space.expressions import identifier
from pytest_autotune.space.space import Space
from pytest_autotune.spec.validation import shortened
from pytest_autotune.study.plan import Plan
from pytest_autotune.text.places import Origin, json_pointer
from pytest_autotune.text.suggest import nearest, shown

_ADVICE: Final = "tune and lock again: pytest --autotune --autotune-lock"


def check_fits(entry: LockEntry, plan: Plan) -> tuple[str, ...]:
    """Raise :class:`LockError` if ``entry`` was not locked for the spec of ``plan``.

    Returns a sentence for every harmless change since then.
    """
    origin = Origin(file=LOCK_NAME, pointer=json_pointer("studies", entry.study))
    name, objective, digests = plan.spec.name, plan.aim, digests_of(plan.key())
    problems = []
    if entry.spec != name:
        problems.append(f"{origin.at('spec')}: locked for the spec {entry.spec!r}, not {name!r}")
    if entry.objective != objective:
        problems.append(
            f"{origin.at('objective')}: locked for {entry.objective!r}, not {objective!r}"
        )
    # The parameters of another spec need not be in this space.
    problems = problems or list(_point_problems(entry.parameters, plan.spec.space, origin))
    if len(problems) == 1:
        raise LockError(f"{problems[0]}; {_ADVICE}")
    if problems:
        raise LockError("\n".join([*shortened(problems), _ADVICE]))
    notes = []
    changed = [part for part in ("workload", "server") if entry.digests[part] != digests[part]]
    if changed:
        notes.append(
            f"{origin.at('digests', changed[0])}: the spec's model, runtime, server or benchmark "
            "changed since this was locked; better parameters may have come in"
        )
    if entry.digests["space"] != digests["space"]:
        notes.append(
            f"{origin.at('digests', 'space')}: the search space changed since this was locked; "
            "the parameters are still in it, but better ones may have come in"
        )
    if entry.digests["slo"] != digests["slo"]:
        notes.append(
            f"{origin.at('digests', 'slo')}: the SLO changed since this was locked; "
            "the margins in the lock file are those of the old one"
        )
    return tuple(notes)


def _point_problems(point: Mapping[str, Any], space: Space, origin: Origin) -> Iterator[str]:
    """Yield the reasons for which ``point`` is not in ``space``. Unknown values are ignored."""
    simple = [*_name_problems(point, space, origin), *_value_problems(point, space, origin)]
    if simple:
        yield from simple
        return
    scope = {**space.variables, **{identifier(name): value for name, value in point.items()}}
    try:
        yield from _condition_problems(point, scope, space, origin)
    except ExpressionError as error:
        yield f"{origin.at('parameters')}: {error}"


def _name_problems(point: Mapping[str, Any], space: Space, origin: Origin) -> Iterator[str]:
    for name in point:
        if name not in space.names:
            close = nearest(name, space.names)
            yield f"{origin.at('parameters', name)}: the spec has no parameter {name!r}{close}"
    for parameter in space.parameters:
        if parameter.when is None and parameter.name not in point:
            yield f"{origin.at('parameters')}: lacks the spec's parameter {parameter.name!r}"


def _value_problems(point: Mapping[str, Any], space: Space, origin: Origin) -> Iterator[str]:
    for parameter in space.parameters:
        value = point.get(parameter.name)
        if parameter.name in point and not parameter.contains(value):
            where = origin.at("parameters", parameter.name)
            yield f"{where}: {shown(value)} is not {parameter.expected(value)}"


def _condition_problems(
    point: Mapping[str, Any], scope: Mapping[str, Any], space: Space, origin: Origin
) -> Iterator[str]:
    for parameter in space.parameters:
        name, when = parameter.name, parameter.when
        active = parameter.is_active(scope)
        if when is None or active == (name in point):
            continue
        values = _values(when.names, scope)
        if active:
            where = origin.at("parameters")
            yield f"{where}: lacks the spec's parameter {name!r}, as {when.source} ({values})"
        else:
            where = origin.at("parameters", name)
            yield f"{where}: {name!r} is only for {when.source} (here {values})"
    for constraint in space.constraints:
        # A constraint on a parameter that does not exist here does not count.
        if all(name in scope for name in constraint.names) and not constraint(scope):
            values = _values(constraint.names, scope)
            yield f"{origin.at('parameters')}: breaks the constraint {constraint.source} ({values})"


def _values(names: frozenset[str], scope: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={shown(scope[name])}" if name in scope else f"no {name}" for name in sorted(names)
    )
