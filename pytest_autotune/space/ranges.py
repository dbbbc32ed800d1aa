"""Parameters that take numbers of a range."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pytest_autotune.errors import SpecError
from pytest_autotune.space.categorical import Categorical
from pytest_autotune.space.parameters import OUTSIDE, Parameter, number_of

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

# ruff: noqa: D102 - what the methods do is said in the base class

#: A range with more values than this is treated like a continuous one.
MAX_LISTED: Final = 1_000_000
#: The width of the neighbourhood of a real number, as a share of its range.
_NEAR: Final = 0.05
#: How far a number may be off the step that it stands for, as a share of the step.
_STEP_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Range(Parameter):
    """Numbers from ``low`` to ``high``, both included; with ``step`` only every so many.

    ``log`` is for ranges over several orders of magnitude. A grid takes ``n`` of the values.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    n: int | None = None

    _kind: ClassVar = "number"

    @property
    def _by_index(self) -> bool:
        """True if samplers search indices, not numbers; they would list very many of them."""
        return self.size is not None and self.size <= MAX_LISTED

    def recognize(self, value: Any, text: str) -> int:  # noqa: ARG002 - for choices
        number = number_of(value)
        return OUTSIDE if number is None or not math.isfinite(number) else self.find(number)

    def nearest_index(self, number: float) -> int:
        index = round((number - self.low) / (self.step or 1))
        return min(max(index, 0), (self.size or 1) - 1)

    def nearest(self, value: Any) -> Any:
        number = number_of(value)
        if number is None:
            return self.low
        inside = min(max(number, self.low), self.high)
        return float(inside) if self.size is None else self.value(self.nearest_index(inside))

    def mutated(self, value: Any, rng: np.random.Generator, share: Callable[[], float]) -> Any:  # noqa: ARG002
        if self.size == 1:
            return value
        low, high, moved = float(self.low), float(self.high), share()
        if self.log:
            wanted = math.exp(math.log(value) + moved * math.log(high / low))
        else:
            wanted = value + moved * (high - low)
        wanted = min(max(wanted, low), high)
        if self.size is None:
            return wanted
        before, index = self.index(value), self.nearest_index(wanted)
        if index == before:
            # At least to the next.
            index = min(max(before + (1 if moved > 0 else -1), 0), self.size - 1)
        return self.value(index)

    def position(self, value: Any) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def distribution(self, *, searched: bool = False) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if searched and self._by_index:
            return IntDistribution(0, (self.size or 1) - 1)
        return FloatDistribution(self.low, self.high, log=self.log)

    def to_search(self, value: Any) -> Any:
        number = self.low if value is None else value
        return self.index(number) if self._by_index else number

    def from_search(self, internal: Any) -> Any:
        if self.size is None:
            return float(internal)
        return self.value(int(internal) if self._by_index else self.nearest_index(internal))

    def expected(self, instead: Any) -> str:  # noqa: ARG002 - for choices
        step = "" if self.step in (None, 1) else f" in steps of {self.step}"
        return f"a {self._kind} from {self.low} to {self.high}{step}"

    def summary(self) -> str:
        return f"{self.low} to {self.high}"

    def _on_steps(self, n: int) -> tuple[Any, ...]:
        """Return about ``n`` values, evenly spaced, both ends among them."""
        last = self.value((self.size or 1) - 1)
        spread = _spaced(self.low, last, n, log=self.log)
        return tuple(self.value(at) for at in dict.fromkeys(map(self.nearest_index, spread)))


@dataclass(frozen=True, kw_only=True)
class Integer(Range):
    """A whole number from ``low`` to ``high``, both included, every ``step``."""

    low: int
    high: int
    step: int = 1

    _kind: ClassVar = "whole number"
    _by_index: ClassVar = False

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def value(self, index: int) -> int:
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        index, rest = divmod(value - self.low, self.step)
        if rest or not 0 <= index < self.size:
            raise self.refusal(value)
        return int(index)

    def contains(self, value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and value in range(self.low, self.high + 1, self.step)

    def draw(self, rng: np.random.Generator) -> int:
        if not self.log:
            return self.value(int(rng.integers(self.size)))
        # Half a unit on either side gives both ends their share.
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        value = round(math.exp(rng.uniform(low, high)))
        return min(max(value, self.low), self.high)

    def distribution(self, *, searched: bool = False) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        if searched and self.size > MAX_LISTED:
            return super().distribution()
        last = self.value(self.size - 1)
        return IntDistribution(self.low, last, log=self.log, step=self.step)

    def grid(self) -> Parameter:
        return self if self.n is None else _choices(self, self._on_steps(self.n))

    def recorded(self, numbers: Iterable[float]) -> Parameter:  # noqa: ARG002 - for real numbers
        return replace(self, n=None)

    def document(self) -> dict[str, Any]:
        return {"integer": [self.low, self.high], "log": self.log, "step": self.step}


@dataclass(frozen=True, kw_only=True)
class Continuous(Range):
    """A real number from ``low`` to ``high``; with ``step`` a discrete range like Integer."""

    @property
    def size(self) -> int | None:
        if self.step is None:
            return 1 if self.low == self.high else None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def value(self, index: int) -> float:
        if index == 0:
            return self.low
        value = self.low + index * (self.step or 0.0)
        return min(float(f"{value:.12g}"), self.high)

    def index(self, value: Any) -> int:
        size = self.size
        index = round((value - self.low) / self.step) if self.step else 0
        if size is None or not 0 <= index < size:
            raise self.refusal(value)
        return index

    def recognize(self, value: Any, text: str) -> int:
        index = super().recognize(value, text)
        # Any number has a nearest step, but only the step's own number stands for it.
        allowed = _STEP_TOLERANCE * (self.step or 0.0)
        return index if index == OUTSIDE or abs(self.value(index) - value) <= allowed else OUTSIDE

    def contains(self, value: Any) -> bool:
        number = number_of(value)
        if number is None or not self.low <= number <= self.high:
            return False
        if self.step is None:
            return True
        index = self.find(number)  # OUTSIDE if closer to a step past the end
        tolerance = 1e-9 * self.step
        return index != OUTSIDE and math.isclose(number, self.value(index), abs_tol=tolerance)

    def draw(self, rng: np.random.Generator) -> Any:
        if self.size is not None:
            return super().draw(rng)
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = float(rng.uniform(self.low, self.high))
        return min(max(value, self.low), self.high)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        if self.size is not None:
            return super().neighbour(value, rng)
        moved = value + rng.normal(0.0, _NEAR * (self.high - self.low))
        return float(min(max(moved, self.low), self.high))

    def grid(self) -> Parameter:
        if self.n is not None and self.step is not None:
            return _choices(self, self._on_steps(self.n))
        if self.n is not None:
            return _choices(self, _spaced(self.low, self.high, self.n, log=self.log))
        if self.size is None:
            raise SpecError(
                f"parameter {self.name!r} is continuous: a grid needs 'step' or 'n' "
                "(the number of points) in it, or choose the strategy auto, bayesian or random"
            )
        return self if self.step is not None else _choices(self, [self.low])

    def recorded(self, numbers: Iterable[float]) -> Parameter:
        if self.size is not None:
            return replace(self, n=None)
        within = {float(number) for number in numbers if self.low <= number <= self.high}
        values = tuple(sorted(within)) or (self.low,)
        return Listed(name=self.name, values=values, log=self.log, when=self.when)

    def document(self) -> dict[str, Any]:
        return {"continuous": [self.low, self.high], "log": self.log, "step": self.step}


@dataclass(frozen=True, kw_only=True)
class Listed(Range):
    """A real number of which only ``values`` are known, ascending: what is left of a range."""

    values: tuple[float, ...]
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        """Take the ends from the values."""
        object.__setattr__(self, "low", self.values[0])
        object.__setattr__(self, "high", self.values[-1])

    @property
    def size(self) -> int:
        return len(self.values)

    def value(self, index: int) -> float:
        return self.values[index]

    def index(self, value: Any) -> int:
        index = bisect_left(self.values, value)
        if index == len(self.values) or self.values[index] != value:
            raise self.refusal(value)
        return index

    def nearest_index(self, number: float) -> int:
        return min(range(self.size), key=lambda at: abs(self.values[at] - number))

    def contains(self, value: Any) -> bool:
        return number_of(value) is not None and self.find(value) != OUTSIDE

    mutated = Parameter.mutated
    summary = Parameter.summary

    def document(self) -> dict[str, Any]:
        return {"continuous": [self.low, self.high], "log": self.log}


def _choices(parameter: Parameter, values: Sequence[Any]) -> Categorical:
    return Categorical(name=parameter.name, choices=tuple(values), when=parameter.when)


def _spaced(low: float, high: float, n: int, *, log: bool) -> list[float]:
    if n == 1 or low == high:
        return [low]
    if log:
        ratio = math.log(high / low)
        inner = [low * math.exp(ratio * i / (n - 1)) for i in range(1, n - 1)]
    else:
        inner = [low + (high - low) * i / (n - 1) for i in range(1, n - 1)]
    exact = [low, *inner, high]
    # Short numbers, unless the range is so narrow that they would run together.
    short = [low, *(float(f"{value:.6g}") for value in inner), high]
    values = short if all(a < b for a, b in pairwise(short)) else exact
    return list(dict.fromkeys(min(max(value, low), high) for value in values))
