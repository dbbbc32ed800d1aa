"""Parameters and constraints become a search space.

A *point* is a plain mapping of parameter name to value, holding only the parameters that are
active in it. Small discrete spaces are enumerated once into a pool; large and continuous ones
are only sampled. A space that is restricted to listed points is never enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_autotune.errors import SpecError
from pytest_autotune.space.effort import Effort
from pytest_autotune.space.expressions import Expression, identifier, satisfied
from pytest_autotune.space.parameters import INACTIVE, Parameter, Point

if TYPE_CHECKING:
    from pytest_autotune.space.listing import Listing
    from pytest_autotune.space.pool import Pool

#: Enumeration gives up past these, and the space is sampled instead.
MAX_POOL: Final = 100_000
MAX_VISITED: Final = 500_000
_EARLY: Final = 100


class Step(NamedTuple):
    """A parameter at its turn, with its place and name in expressions.

    ``checks`` are the constraints that can be evaluated once its value is known.
    """

    parameter: Parameter
    at: int
    key: str
    checks: tuple[Expression, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A constrained search space, in which parameters may depend on others.

    ``variables`` are names that constraints may use besides the parameters, such as ``gpus``.
    With ``listed`` its points are those that meet the constraints and the conditions. Expressions
    that use ``variables`` do not count then, as another machine recorded the points.
    """

    parameters: tuple[Parameter, ...]
    constraints: tuple[Expression, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    listed: Listing | None = None
    steps: tuple[Step, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Order the parameters so that each follows those its condition reads."""
        object.__setattr__(self, "steps", _steps(self.parameters, self.constraints))

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in declaration order."""
        return tuple(parameter.name for parameter in self.parameters)

    def is_valid(self, point: Point) -> bool:
        """Return whether ``point`` has exactly the active parameters and meets the constraints."""
        if not set(point).issubset(self.names):
            return False
        if self.listed is not None:
            return self.pool is not None and self.pool.row(point) is not None
        scope = dict(self.variables)
        for step in self.steps:
            name = step.parameter.name
            if step.parameter.is_active(scope) != (name in point):
                return False
            if name in point:
                scope[step.key] = point[name]
            if not satisfied(step.checks, scope):
                return False
        return True

    def activate(self, full: Point) -> Point:
        """Drop from a full assignment the parameters that are inactive in it."""
        scope = dict(self.variables)
        for step in self.steps:
            if step.parameter.is_active(scope):
                scope[step.key] = full[step.parameter.name]
        return {name: full[name] for name in self.names if identifier(name) in scope}

    def in_order(self, values: Point) -> Point:
        """Return a point with its parameters in declaration order."""
        return {name: values[name] for name in self.names if name in values}

    @cached_property
    def pool(self) -> Pool | None:
        """All valid points, or None where the space is continuous or too large to list."""
        if self.listed is not None:
            return self.listed.pool(self.parameters, self.constraints, self.variables)
        # NumPy takes a tenth of a second to import, and a run may have no study.
        import numpy as np

        from pytest_autotune.space.pool import MAX_CODE, Pool

        if any(p.size is None or p.size > MAX_VISITED for p in self.parameters):
            return None
        if math.prod(int(p.size or 0) + 1 for p in self.parameters) >= MAX_CODE:
            return None
        rows: list[list[int]] = []
        effort = Effort()
        for visited, row in enumerate(self._rows(effort)):
            if row is not None:
                rows.append(row)
            if visited > MAX_VISITED or len(rows) > MAX_POOL or effort.spent:
                return None
        indices = np.array(rows, dtype=np.int64).reshape(len(rows), len(self.parameters))
        return Pool(self.parameters, indices)

    def count(self, most: int) -> int:
        """Return the number of valid points, ``most`` if there are more or nobody can list them.

        A study has no more trials than its budget, so that the pool need not be made for this.
        """
        if self.listed is not None:
            return most if self.pool is None else min(most, len(self.pool))
        if any(p.size is None or p.size > MAX_VISITED for p in self.parameters):
            return most
        found, effort = 0, Effort()
        for visited, row in enumerate(self._rows(effort)):
            found += row is not None
            if found == most or visited > MAX_VISITED or effort.spent:
                return most
        return found

    def early(self) -> Point | None:
        """Return the first point of the pool if it is found soon, without making the pool.

        Launches of the gate need no other one, so they do without NumPy.
        """
        sizes = [MAX_POOL if p.size is None else p.size for p in self.parameters]
        if self.listed is not None or math.prod(size + 1 for size in sizes) > MAX_POOL:
            return None
        row = next(filter(None, islice(self._rows(Effort()), _EARLY)), None)
        if row is None:
            return None
        found = zip(self.parameters, row, strict=True)
        return {p.name: p.value(index) for p, index in found if index != INACTIVE}

    def _rows(self, effort: Effort) -> Iterator[list[int] | None]:
        return self._walk(0, [INACTIVE] * len(self.steps), dict(self.variables), effort)

    def _walk(
        self, depth: int, row: list[int], scope: dict[str, Any], effort: Effort
    ) -> Iterator[list[int] | None]:
        """Visit assignments depth first; yield each valid row, and None for each inner node."""
        if depth == len(self.steps):
            yield list(row)
            return
        parameter, at, key, checks = self.steps[depth]
        if not parameter.is_active(scope):
            row[at] = INACTIVE
            if effort.satisfied(checks, scope):
                yield from self._walk(depth + 1, row, scope, effort)
            return
        for choice in range(parameter.size or 0):
            yield None
            row[at] = choice
            scope[key] = parameter.value(choice)
            if effort.satisfied(checks, scope):
                yield from self._walk(depth + 1, row, scope, effort)
        del scope[key]

    def document(self) -> Mapping[str, Any]:
        """Return the space as plain JSON types, for keys and comparisons."""
        parameters = {
            p.name: {**p.document(), **({} if p.when is None else {"when": p.when.source})}
            for p in self.parameters
        }
        used = frozenset().union(*(expression.names for expression in self.expressions()))
        document: dict[str, Any] = {
            "parameters": parameters,
            "constraints": sorted(constraint.source for constraint in self.constraints),
            "variables": {k: v for k, v in self.variables.items() if k in used},
        }
        if self.listed is not None:
            document |= {"variables": {}, "listed": self.listed.digest}
        return document

    def expressions(self) -> Iterator[Expression]:
        """Yield the constraints and the conditions."""
        yield from self.constraints
        yield from (p.when for p in self.parameters if p.when is not None)


def _steps(parameters: Sequence[Parameter], constraints: Sequence[Expression]) -> tuple[Step, ...]:
    order = _dependency_order(parameters)
    keys = [identifier(parameters[at].name) for at in order]
    checks: list[list[Expression]] = [[] for _ in order]
    for constraint in constraints if order else ():
        last = max((keys.index(name) for name in constraint.names if name in keys), default=0)
        checks[last].append(constraint)
    return tuple(
        Step(parameters[at], at, key, tuple(decided))
        for at, key, decided in zip(order, keys, checks, strict=True)
    )


def _dependency_order(parameters: Sequence[Parameter]) -> tuple[int, ...]:
    index_of = {identifier(parameter.name): at for at, parameter in enumerate(parameters)}
    order: list[int] = []
    visiting: list[int] = []

    def visit(at: int) -> None:
        if at in order:
            return
        if at in visiting:
            names = " -> ".join(parameters[i].name for i in (*visiting[visiting.index(at) :], at))
            raise SpecError(f"parameters depend on each other in a circle: {names}")
        visiting.append(at)
        when = parameters[at].when
        for name in sorted(when.names) if when is not None else ():
            if name in index_of:
                visit(index_of[name])
        visiting.pop()
        order.append(at)

    for at in range(len(parameters)):
        visit(at)
    return tuple(order)
