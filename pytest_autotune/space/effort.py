"""The work that a search for valid points may take, in steps and not in seconds.

So the same points are found on every machine, however busy it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_autotune.space.expressions import Expression, Scope

#: Steps of one search. Each takes 0.3 µs or so: 3 s in all.
MAX_STEPS: Final = 10_000_000


class Effort:
    """Steps that are left: each value tried, and each name or number of a constraint."""

    def __init__(self, left: int = MAX_STEPS) -> None:
        self._left = left

    @property
    def spent(self) -> bool:
        """True if no step is left."""
        return self._left <= 0

    def satisfied(self, constraints: Iterable[Expression], scope: Scope) -> bool:
        """Return whether all hold; one that reads an inactive parameter has nothing to say."""
        self._left -= 1
        for constraint in constraints:
            if all(name in scope for name in constraint.names):
                self._left -= constraint.cost
                if not constraint(scope):
                    return False
        return True
