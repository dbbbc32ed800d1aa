"""Parameters and constraints become a search space.

A *point* is a plain mapping of parameter name to value, holding only the parameters that are
active in it. Small discrete spaces are enumerated once into a :class:`Pool`; large and
continuous ones are only ever sampled. A space may be restricted to points that are listed, and
then is never enumerated, however large.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pytest_autotune.errors import SpecError
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.text.values import canonical

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    BoolArray: TypeAlias = npt.NDArray[np.bool_]
    IntArray: TypeAlias = npt.NDArray[np.int64]
    FloatArray: TypeAlias = npt.NDArray[np.float64]

Point: TypeAlias = Mapping[str, Any]

#: Enumeration gives up past these, and the space is sampled instead.
MAX_POOL: Final = 100_000
MAX_VISITED: Final = 500_000
#: Rejection sampling gives up after this many draws, then searches by backtracking.
MAX_DRAWS: Final = 2_000
MAX_BACKTRACK: Final = 50_000
#: Rows of a pool are numbered by their digits up to here.
MAX_CODE: Final = 2**62
#: A range with more values than this is drawn from without being listed.
MAX_LISTED: Final = 1_000_000

INACTIVE: Final = -1
#: In rows that are being made: a value that the parameter cannot take.
OUTSIDE: Final = -2


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A parameter that takes one of ``choices``, which may be any JSON values."""

    name: str
    choices: tuple[Any, ...]
    when: Expression | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.choices)

    @cached_property
    def ordered(self) -> bool:
        """Whether neighbouring choices are alike: numbers in rising or falling order."""
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.choices
        )
        ascending = sorted(self.choices) if numeric else []
        return numeric and list(self.choices) in (ascending, ascending[::-1])

    def value(self, index: int) -> Any:
        """Return the value at ``index``."""
        return self.choices[index]

    def index(self, value: Any) -> int:
        """Return the index of ``value``; raise ValueError where it is none of the choices."""
        # Most values are plain, and found without writing them as JSON.
        plain = isinstance(value, str | int | float)
        index = self._plain.get((type(value), value)) if plain else None
        if index is None:
            index = self._index_of.get(canonical(value))
        if index is None:
            msg = f"{value!r} is not a value of {self.name}"
            raise ValueError(msg)
        return index

    @cached_property
    def _plain(self) -> Mapping[tuple[type, Any], int]:
        return {
            (type(choice), choice): index
            for index, choice in enumerate(self.choices)
            # Of floats, 0.0 and -0.0 are equal and written differently.
            if isinstance(choice, str | int) or (isinstance(choice, float) and choice)
        }

    @cached_property
    def _index_of(self) -> Mapping[str, int]:
        return {canonical(choice): index for index, choice in enumerate(self.choices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included, every ``step``."""

    name: str
    low: int
    high: int
    log: bool = False
    step: int = 1
    n: int | None = None
    when: Expression | None = None

    ordered: Final = True

    @property
    def size(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def value(self, index: int) -> int:
        """Return the value at ``index``."""
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        """Return the index of ``value``; raise ValueError where it is outside the range."""
        index, rest = divmod(value - self.low, self.step)
        if rest or not 0 <= index < self.size:
            msg = f"{value!r} is not a value of {self.name}"
            raise ValueError(msg)
        return int(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuous:
    """A real number from ``low`` to ``high``; with ``step`` a discrete range like Integer."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    n: int | None = None
    when: Expression | None = None

    ordered: Final = True

    @property
    def size(self) -> int | None:
        """Number of values, or None where there are infinitely many."""
        if self.step is None:
            return 1 if self.low == self.high else None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def value(self, index: int) -> float:
        """Return the value at ``index`` of a stepped range, free of representation noise."""
        if index == 0:
            return self.low
        value = self.low + index * (self.step or 0.0)
        return min(float(f"{value:.12g}"), self.high)

    def index(self, value: Any) -> int:
        """Return the index of ``value`` in a stepped range; raise ValueError if outside it."""
        size = self.size
        index = round((value - self.low) / self.step) if self.step else 0
        if size is None or not 0 <= index < size:
            msg = f"{value!r} is not a value of {self.name}"
            raise ValueError(msg)
        return index


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A real number of which only ``values`` are known, ascending: what is left of a range."""

    name: str
    values: tuple[float, ...]
    log: bool = False
    when: Expression | None = None

    ordered: Final = True
    step: Final[None] = None

    @property
    def low(self) -> float:
        """The smallest value."""
        return self.values[0]

    @property
    def high(self) -> float:
        """The largest value."""
        return self.values[-1]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    def value(self, index: int) -> float:
        """Return the value at ``index``."""
        return self.values[index]

    def index(self, value: Any) -> int:
        """Return the index of ``value``; raise ValueError where it is not listed."""
        index = bisect_left(self.values, value)
        if index == len(self.values) or self.values[index] != value:
            msg = f"{value!r} is not a value of {self.name}"
            raise ValueError(msg)
        return index


Parameter: TypeAlias = Categorical | Integer | Continuous | Listed


def point_key(point: Point) -> str:
    """Return the identity of a point, independent of the order of its keys."""
    return canonical(dict(point))


@dataclass(frozen=True)
class Listing:
    """Points to which a space is restricted: rows of indices into the values of ``parameters``.

    It carries its parameters, so that it means the same points in a space that spells its
    values otherwise. ``digest`` stands for the rows in comparisons and keys.
    """

    parameters: tuple[Parameter, ...]
    rows: IntArray = field(repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Digest the values that are listed, and how they are combined."""
        import numpy as np

        digest = hashlib.sha256()
        for parameter, column in zip(self.parameters, self.rows.T, strict=True):
            present, inverse = np.unique(column, return_inverse=True)
            values = [parameter.value(int(at)) for at in present if at != INACTIVE]
            inactive = len(values) < len(present)
            digest.update(canonical([parameter.name, inactive, values]).encode())
            digest.update(inverse.reshape(-1).astype("<i8").tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())

    def rows_for(self, parameters: Sequence[Parameter]) -> IntArray:
        """Return the rows as indices into the values of ``parameters``, of the same names.

        Points with a value that those do not have are left out.
        """
        import numpy as np

        columns = []
        for parameter, own, column in zip(parameters, self.parameters, self.rows.T, strict=True):
            assert parameter.name == own.name, "a listing is for the same parameters"
            if parameter == own:
                columns.append(column)
                continue
            present, inverse = np.unique(column, return_inverse=True)
            moved = [
                INACTIVE if at == INACTIVE else index_of(parameter, own.value(int(at)))
                for at in present
            ]
            columns.append(np.array(moved, dtype=np.int64)[inverse.reshape(-1)])
        rows: IntArray = np.stack(columns, axis=1) if columns else self.rows
        known: IntArray = rows[(rows != OUTSIDE).all(axis=1)]
        return known


def index_of(parameter: Parameter, value: Any) -> int:
    """Return the index of ``value``, ``OUTSIDE`` where the parameter cannot take it."""
    try:
        return parameter.index(value)
    except (ValueError, TypeError):
        return OUTSIDE


@dataclass(frozen=True, kw_only=True)
class Space:
    """A constrained, possibly conditional search space.

    ``variables`` are names that constraints may use besides the parameters, such as ``gpus``.
    With ``listed`` only those of its points exist that also meet the constraints and the
    conditions. Expressions that use ``variables`` do not count then: what they say of the
    machine was decided where the points were listed.
    """

    parameters: tuple[Parameter, ...]
    constraints: tuple[Expression, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    listed: Listing | None = None
    _order: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Order the parameters so that each follows those its condition reads."""
        object.__setattr__(self, "_order", _dependency_order(self.parameters))

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in declaration order."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def _checks(self) -> tuple[tuple[Expression, ...], ...]:
        """Return, per position in ``_order``, the constraints decided by that parameter."""
        position = {
            identifier(self.parameters[index].name): at for at, index in enumerate(self._order)
        }
        decided: list[list[Expression]] = [[] for _ in self._order]
        for constraint in self.constraints:
            at = max((position[name] for name in constraint.names if name in position), default=0)
            if decided:
                decided[at].append(constraint)
        return tuple(map(tuple, decided))

    def is_active(self, parameter: Parameter, scope: Mapping[str, Any]) -> bool:
        """Tell whether ``parameter`` exists, given the values in ``scope``."""
        when = parameter.when
        if when is None:
            return True
        # A condition on a parameter that is itself inactive does not hold.
        return all(name in scope for name in when.names) and when(scope)

    def is_valid(self, point: Point) -> bool:
        """Tell whether ``point`` holds exactly the active parameters and meets the constraints."""
        if not set(point).issubset(self.names):
            return False
        if self.listed is not None:
            return self._listed_pool.row(point) is not None
        scope = dict(self.variables)
        for at, index in enumerate(self._order):
            parameter = self.parameters[index]
            if self.is_active(parameter, scope) != (parameter.name in point):
                return False
            if parameter.name in point:
                scope[identifier(parameter.name)] = point[parameter.name]
            if not _satisfied(self._checks[at], scope):
                return False
        return True

    def activate(self, full: Point) -> Point:
        """Drop from a full assignment the parameters that are inactive in it."""
        scope = dict(self.variables)
        for index in self._order:
            parameter = self.parameters[index]
            if self.is_active(parameter, scope):
                scope[identifier(parameter.name)] = full[parameter.name]
        return {name: full[name] for name in self.names if identifier(name) in scope}

    @cached_property
    def pool(self) -> Pool | None:
        """All valid points, or None where the space is continuous or too large to list."""
        import numpy as np

        if self.listed is not None:
            return self._listed_pool
        if any(p.size is None or p.size > MAX_VISITED for p in self.parameters):
            return None
        radices = [int(p.size or 0) + 1 for p in self.parameters]
        if math.prod(radices) >= MAX_CODE:
            return None
        rows: list[list[int]] = []
        for visited, row in enumerate(self._walk()):
            if row is not None:
                rows.append(row)
            if visited > MAX_VISITED or len(rows) > MAX_POOL:
                return None
        indices = np.array(rows, dtype=np.int64).reshape(len(rows), len(self.parameters))
        return Pool(self, indices, tuple(radices))

    @cached_property
    def _listed_pool(self) -> Pool:
        import numpy as np

        assert self.listed is not None
        rows = self.listed.rows_for(self.parameters)
        if len(rows):
            rows = np.unique(rows, axis=0)
        for at, parameter in enumerate(self.parameters):
            active = rows[:, at] != INACTIVE
            if parameter.when is None:
                rows = rows[active]
            elif not self._reads_machine(parameter.when):
                exists = partial(self.is_active, parameter)
                rows = rows[self._decided(rows, parameter.when, exists) == active]
        for constraint in self.constraints:
            if not self._reads_machine(constraint):
                holds = partial(_satisfied, (constraint,))
                rows = rows[self._decided(rows, constraint, holds)]
        radices = tuple(int(p.size or 0) + 1 for p in self.parameters)
        return Pool(self, rows, radices if math.prod(radices) < MAX_CODE else None)

    def _reads_machine(self, expression: Expression) -> bool:
        return not expression.names.isdisjoint(self.variables)

    def _decided(
        self,
        rows: IntArray,
        expression: Expression,
        decide: Callable[[Mapping[str, Any]], bool],
    ) -> BoolArray:
        """Tell for each row what ``decide`` says of the values that ``expression`` reads.

        It is asked once for each combination of them, of which there are few.
        """
        import numpy as np

        read = [
            (at, parameter)
            for at, parameter in enumerate(self.parameters)
            if identifier(parameter.name) in expression.names
        ]
        if not read or not len(rows):
            return np.full(len(rows), decide({}))
        # Combinations as numbers, which are sorted faster than rows are.
        code: IntArray = np.zeros(len(rows), dtype=np.int64)
        for at, _ in read:
            present, inverse = np.unique(rows[:, at], return_inverse=True)
            combined = code * len(present) + inverse.reshape(-1)
            code = np.unique(combined, return_inverse=True)[1].reshape(-1)
        first = np.unique(code, return_index=True)[1]
        verdicts = [
            decide(
                {
                    identifier(parameter.name): parameter.value(int(rows[row, at]))
                    for at, parameter in read
                    if rows[row, at] != INACTIVE
                }
            )
            for row in first
        ]
        return np.array(verdicts, dtype=np.bool_)[code]

    def _walk(self) -> Iterator[list[int] | None]:
        """Visit assignments depth first; yield each valid row, and None for each inner node."""
        count = len(self.parameters)
        row = [INACTIVE] * count

        def descend(at: int, scope: dict[str, Any]) -> Iterator[list[int] | None]:
            if at == count:
                yield list(row)
                return
            index = self._order[at]
            parameter = self.parameters[index]
            key = identifier(parameter.name)
            if not self.is_active(parameter, scope):
                row[index] = INACTIVE
                if _satisfied(self._checks[at], scope):
                    yield from descend(at + 1, scope)
                return
            for choice in range(parameter.size or 0):
                yield None
                row[index] = choice
                scope[key] = parameter.value(choice)
                if _satisfied(self._checks[at], scope):
                    yield from descend(at + 1, scope)
            del scope[key]

        yield from descend(0, dict(self.variables))

    def is_empty(self) -> bool:
        """Return whether no point is valid, or none is found where they cannot be listed."""
        import numpy as np

        if self.pool is not None:
            return len(self.pool) == 0
        return self.draw(np.random.default_rng(0)) is None

    def example(self) -> Point:
        """Return some valid point, the same every time; empty where there is none."""
        import numpy as np

        if self.pool is not None and len(self.pool):
            return self.pool.point(0)
        return (self.draw(np.random.default_rng(0)) if self.parameters else None) or {}

    def draw(self, rng: np.random.Generator) -> Point | None:
        """Draw one valid point at random, or None where none can be found.

        Uniform among listed points, and by rejection where constraints leave at least about one
        combination in ``MAX_DRAWS``; below that by randomized backtracking, which is not uniform.
        """
        if self.listed is not None:
            pool = self._listed_pool
            return pool.point(int(rng.integers(len(pool)))) if len(pool) else None
        for _ in range(MAX_DRAWS):
            point = self._draw_once(rng)
            if point is not None:
                return point
        budget = [MAX_BACKTRACK]
        scope = dict(self.variables)
        return self._backtrack(0, scope, {}, rng, budget)

    def draw_some(self, rng: np.random.Generator, tries: int, least: int = 1) -> list[Point]:
        """Draw the valid points that ``tries`` combinations bring.

        However few are valid, that takes bounded time; ``least`` points are drawn one by one
        then, fewer where none can be found.
        """
        if self.listed is not None:
            drawn = (self.draw(rng) for _ in range(tries))
        else:
            drawn = (self._draw_once(rng) for _ in range(tries))
        found = [point for point in drawn if point is not None]
        while len(found) < least:
            point = self.draw(rng)
            if point is None:
                break
            found.append(point)
        return found

    def _draw_once(self, rng: np.random.Generator) -> Point | None:
        scope = dict(self.variables)
        point: dict[str, Any] = {}
        for at, index in enumerate(self._order):
            parameter = self.parameters[index]
            if self.is_active(parameter, scope):
                value = draw_value(parameter, rng)
                scope[identifier(parameter.name)] = point[parameter.name] = value
            if not _satisfied(self._checks[at], scope):
                return None
        return {name: point[name] for name in self.names if name in point}

    def _backtrack(
        self,
        at: int,
        scope: dict[str, Any],
        point: dict[str, Any],
        rng: np.random.Generator,
        budget: list[int],
    ) -> Point | None:
        if at == len(self._order):
            return {name: point[name] for name in self.names if name in point}
        parameter = self.parameters[self._order[at]]
        if not self.is_active(parameter, scope):
            values: Sequence[Any] = (None,)
        elif parameter.size is not None and parameter.size <= MAX_LISTED:
            values = [parameter.value(int(i)) for i in rng.permutation(parameter.size)[:1000]]
        else:
            values = [draw_value(parameter, rng) for _ in range(100)]
        active = self.is_active(parameter, scope)
        for value in values:
            budget[0] -= 1
            if budget[0] < 0:
                return None
            if active:
                scope[identifier(parameter.name)] = point[parameter.name] = value
            if _satisfied(self._checks[at], scope):
                found = self._backtrack(at + 1, scope, point, rng, budget)
                if found is not None:
                    return found
        scope.pop(identifier(parameter.name), None)
        point.pop(parameter.name, None)
        return None

    def document(self) -> Mapping[str, Any]:
        """Return the space as plain JSON types, for keys and comparisons."""
        parameters: dict[str, Any] = {}
        for parameter in self.parameters:
            match parameter:
                case Categorical(choices=choices):
                    entry: dict[str, Any] = {"choices": list(choices)}
                case Integer(low=low, high=high, log=log, step=step):
                    entry = {"integer": [low, high], "log": log, "step": step}
                case Continuous(low=low, high=high, log=log, step=real_step):
                    entry = {"continuous": [low, high], "log": log, "step": real_step}
                case Listed(log=log):
                    # Its values are in the listing's digest.
                    entry = {"continuous": [parameter.low, parameter.high], "log": log}
            if parameter.when is not None:
                entry["when"] = parameter.when.source
            parameters[parameter.name] = entry
        used = frozenset().union(*(constraint.names for constraint in self.expressions()))
        document: dict[str, Any] = {
            "parameters": parameters,
            "constraints": sorted(constraint.source for constraint in self.constraints),
            "variables": {k: v for k, v in self.variables.items() if k in used},
        }
        if self.listed is not None:
            document["variables"] = {}
            document["listed"] = self.listed.digest
        return document

    def expressions(self) -> Iterator[Expression]:
        """Yield the constraints and the conditions."""
        yield from self.constraints
        yield from (p.when for p in self.parameters if p.when is not None)


class Pool:
    """Every valid point of an enumerable space, as rows of value indices.

    ``indices`` has shape (points, parameters), in declaration order with the last parameter
    fastest; ``INACTIVE`` marks a parameter that does not exist in that point. ``radices`` are
    one more than the sizes of the parameters, None where their product is ``MAX_CODE`` or more;
    then the rows must be in that order already.
    """

    def __init__(self, space: Space, indices: IntArray, radices: tuple[int, ...] | None) -> None:
        import numpy as np

        self.space = space
        self._rows: dict[str, int | None] = {}
        self.indices: IntArray = indices
        self._codes: IntArray | None = None
        if radices is None:
            return
        self._weights = np.ones(len(radices), dtype=np.int64)
        for position in range(len(radices) - 2, -1, -1):
            self._weights[position] = self._weights[position + 1] * radices[position + 1]
        codes = (indices + 1) @ self._weights
        order = np.argsort(codes, kind="stable")
        self.indices = indices[order]
        self._codes = codes[order]

    def __len__(self) -> int:
        """Return the number of valid points."""
        return len(self.indices)

    def point(self, row: int) -> Point:
        """Return the point in ``row``."""
        return {
            parameter.name: parameter.value(int(index))
            for parameter, index in zip(self.space.parameters, self.indices[row], strict=True)
            if index != INACTIVE
        }

    def row(self, point: Point, key: str | None = None) -> int | None:
        """Return the row of ``point`` (whose key may be given), or None if it is not here."""
        key = point_key(point) if key is None else key
        if key not in self._rows:
            self._rows[key] = self._find(point)
        return self._rows[key]

    @cached_property
    def _places(self) -> Mapping[bytes, int]:
        return {digits.tobytes(): row for row, digits in enumerate(self.indices)}

    def _find(self, point: Point) -> int | None:
        digits = [
            index_of(p, point[p.name]) if p.name in point else INACTIVE
            for p in self.space.parameters
        ]
        if OUTSIDE in digits:
            return None
        if self._codes is None:
            import numpy as np

            return self._places.get(np.array(digits, dtype=np.int64).tobytes())
        code = int(sum((d + 1) * int(w) for d, w in zip(digits, self._weights, strict=True)))
        at = int(self._codes.searchsorted(code))
        return at if at < len(self._codes) and int(self._codes[at]) == code else None


def draw_value(parameter: Parameter, rng: np.random.Generator) -> Any:
    """Draw one value of ``parameter``, uniformly (in the logarithm where it says so)."""
    if isinstance(parameter, Continuous) and parameter.size is None:
        if parameter.log:
            value = math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
        else:
            value = float(rng.uniform(parameter.low, parameter.high))
        return min(max(value, parameter.low), parameter.high)
    if isinstance(parameter, Integer) and parameter.log:
        # Half a unit on either side gives both ends their share.
        low, high = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
        value = round(math.exp(rng.uniform(low, high)))
        return min(max(value, parameter.low), parameter.high)
    return parameter.value(int(rng.integers(parameter.size or 1)))


def _satisfied(constraints: Sequence[Expression], scope: Mapping[str, Any]) -> bool:
    """Tell whether all hold; one that reads an inactive parameter has nothing to say."""
    return all(
        constraint(scope)
        for constraint in constraints
        if all(name in scope for name in constraint.names)
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
            msg = f"parameters depend on each other in a circle: {names}"
            raise SpecError(msg)
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
