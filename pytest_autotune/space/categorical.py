"""Parameters that take one of some values, which are listed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.space.parameters import OUTSIDE, Parameter, number_of
from pytest_autotune.text.suggest import did_you_mean, shown
from pytest_autotune.text.values import canonical

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

# ruff: noqa: D102 - what the methods do is said in the base class

#: So many choices are named in a message.
_SHOWN: Final = 12


@dataclass(frozen=True, kw_only=True)
class Categorical(Parameter):
    """A parameter that takes one of ``choices``, which may be any JSON values."""

    choices: tuple[Any, ...]

    @property
    def size(self) -> int:
        return len(self.choices)

    @property
    def listed(self) -> tuple[Any, ...]:
        return self.choices

    @cached_property
    def ordered(self) -> bool:
        numeric = all(number_of(value) is not None for value in self.choices)
        ascending = sorted(self.choices) if numeric else []
        return numeric and list(self.choices) in (ascending, ascending[::-1])

    def value(self, index: int) -> Any:
        return self.choices[index]

    def index(self, value: Any) -> int:
        # Most values are plain, and found without writing them as JSON.
        plain = isinstance(value, str | int | float)
        index = self._plain.get((type(value), value)) if plain else None
        if index is None:
            index = self._by_text.get(canonical(value))
        if index is None:
            raise self.refusal(value)
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
    def _by_text(self) -> Mapping[str, int]:
        return {canonical(choice): index for index, choice in enumerate(self.choices)}

    @cached_property
    def _by_identity(self) -> Mapping[Any, int]:
        places = reversed(list(enumerate(self.choices)))
        return {_identity(choice): index for index, choice in places}

    def recognize(self, value: Any, text: str) -> int:
        identities = [_identity(value), ("text", text)]
        if isinstance(value, int | float) and value in (0, 1):
            # Some write booleans as numbers; that counts where there are no such numbers.
            identities.append(_identity(bool(value)))
        known = self._by_identity
        return next((known[identity] for identity in identities if identity in known), OUTSIDE)

    def contains(self, value: Any) -> bool:
        return canonical(value) in self._by_text

    def nearest(self, value: Any) -> Any:
        index = self.find(value)
        if index != OUTSIDE:
            return self.choices[index]
        number = number_of(value)
        if number is None or not self.ordered:
            return self.choices[0]
        return min(self.choices, key=lambda choice: abs(choice - number))

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        return super().neighbour(value, rng) if self.ordered else self.draw(rng)

    def position(self, value: Any) -> float:
        return self.index(value) / (self.size - 1)

    def distribution(self, *, searched: bool = False) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        # Samplers need choices that are equal only to themselves.
        return CategoricalDistribution(
            range(self.size) if searched else list(map(self.storable, self.choices))
        )

    def storable(self, value: Any) -> Any:
        return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)

    def to_search(self, value: Any) -> int:
        return 0 if value is None and None not in self.choices else self.index(value)

    def from_search(self, internal: Any) -> Any:
        return self.choices[int(internal)]

    def expected(self, instead: Any) -> str:
        choices = [shown(choice) for choice in self.choices[:_SHOWN]]
        more = ["…"] if self.size > _SHOWN else []
        words = [choice for choice in self.choices if isinstance(choice, str)]
        return f"one of {', '.join([*choices, *more])}{did_you_mean(instead, words)}"

    def document(self) -> dict[str, Any]:
        return {"choices": list(self.choices)}


def _identity(value: Any) -> Any:
    """Return a value that is equal for all spellings of ``value``: 1 is 1.0."""
    match value:
        case bool() | None:
            return ("constant", value)
        case int() | float():
            return ("number", value)
        case str():
            return ("text", value)
        case list() | tuple():
            return ("list", tuple(_identity(item) for item in value))
        case Mapping():
            return ("mapping", frozenset((key, _identity(item)) for key, item in value.items()))
    return ("other", repr(value))
