"""The parameter of a space: everything that its kinds know of their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pytest_autotune.space.expressions import Expression
from pytest_autotune.text.values import canonical, label

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

#: The values of the parameters that are active, by name.
Point: TypeAlias = Mapping[str, Any]

#: In place of an index: the parameter does not exist in that point.
INACTIVE: Final = -1
#: In place of an index: the parameter cannot take that value.
OUTSIDE: Final = -2
#: So many values are named in a few words.
_SHOWN: Final = 6


def point_key(point: Point) -> str:
    """Return the identity of a point, independent of the order of its keys."""
    return canonical(dict(point))


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """A parameter, which exists only in points that meet its condition ``when``.

    Where it has finitely many values, these are numbered from 0.
    """

    name: str
    when: Expression | None = None

    @property
    @abstractmethod
    def size(self) -> int | None:
        """The number of values, None where there are infinitely many."""

    @property
    def listed(self) -> tuple[Any, ...]:
        """The values that the spec names one by one, empty for a range."""
        return ()

    @property
    def ordered(self) -> bool:
        """True if neighbouring values are alike."""
        return True

    def is_active(self, scope: Mapping[str, Any]) -> bool:
        """Return whether the parameter exists, given the values in ``scope``."""
        if self.when is None:
            return True
        # A condition on a parameter that is itself inactive does not hold.
        return all(name in scope for name in self.when.names) and self.when(scope)

    @abstractmethod
    def value(self, index: int) -> Any:
        """Return the value at ``index``."""

    @abstractmethod
    def index(self, value: Any) -> int:
        """Return the index of ``value``; raise ValueError where it cannot be taken."""

    def find(self, value: Any) -> int:
        """Return the index of ``value``, ``OUTSIDE`` where it cannot be taken."""
        try:
            return self.index(value)
        except (ValueError, TypeError):
            return OUTSIDE

    @abstractmethod
    def recognize(self, value: Any, text: str) -> int:
        """Return the index of the value that stands as ``text`` in a file and reads ``value``.

        It is ``OUTSIDE`` where there is none. Spellings of one value are taken for equal.
        """

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Return whether ``value`` can be taken, and has the right type, too."""

    @abstractmethod
    def nearest(self, value: Any) -> Any:
        """Return the value nearest to any JSON ``value``, the first one where none is near."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a value uniformly, in the logarithm where the range says so."""
        return self.value(int(rng.integers(self.size or 1)))

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        """Return a value that is one step or a few away from ``value``."""
        last = (self.size or 1) - 1
        step = int(rng.geometric(0.5)) * (1 if rng.random() < 0.5 else -1)  # noqa: PLR2004
        return self.value(min(max(self.index(value) + step, 0), last))

    def mutated(self, value: Any, rng: np.random.Generator, share: Callable[[], float]) -> Any:  # noqa: ARG002 - for ranges
        """Return another value, near ``value`` where there is an order.

        ``share`` draws by which share of the whole range it differs, where distances count.
        """
        return self.neighbour(value, rng)

    @abstractmethod
    def position(self, value: Any) -> float:
        """Return the place of ``value`` along the order, from 0 to 1."""

    @abstractmethod
    def distribution(self, *, searched: bool = False) -> BaseDistribution:
        """Return the parameter as Optuna's dashboards know it, or as its samplers search it."""

    def storable(self, value: Any) -> Any:
        """Return ``value`` as dashboards know it."""
        return value

    @abstractmethod
    def to_search(self, value: Any) -> Any:
        """Return ``value`` as the samplers know it; None, for inactive, counts as the first."""

    @abstractmethod
    def from_search(self, internal: Any) -> Any:
        """Return the value that a sampler's ``internal`` stands for."""

    def grid(self) -> Parameter:
        """Return the parameter with the values that a grid takes; raise :class:`SpecError`."""
        return self

    def recorded(self, numbers: Iterable[float]) -> Parameter:  # noqa: ARG002 - for ranges
        """Return the parameter where only these ``numbers`` were recorded of it."""
        return self

    @abstractmethod
    def expected(self, instead: Any) -> str:
        """Return the values in words, after "is not", for a message about a wrong one."""

    def summary(self) -> str:
        """Return the first values in a few words."""
        size = self.size or 0
        found = [label(self.value(at)) for at in range(min(size, _SHOWN))]
        return ", ".join(found) + (", …" if size > _SHOWN else "")

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Return the values as plain JSON types, for keys and comparisons."""

    def refusal(self, value: Any) -> ValueError:
        """Return the error about a value that cannot be taken."""
        return ValueError(f"{value!r} is not a value of {self.name}")


def number_of(value: Any) -> float | None:
    """Return ``value`` where it is a number and no boolean."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
