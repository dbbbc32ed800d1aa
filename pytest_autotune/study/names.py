"""Names of trials: the ids of their tests, which say which trial it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_autotune.space.parameters import Point, point_key


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialNames:
    """The test ids of a study's trials.

    ``width`` is the least number of digits. ``grid`` has the place and the id of every point of
    a grid, by its key.
    """

    width: int = 3
    grid: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def by_number(self, number: int) -> str:
        """Return the id ``trial-NNN``."""
        return f"trial-{number:0{self.width}d}"

    def of(self, number: int, params: Point) -> str:
        """Return the id of a trial: the parameters in a grid, else its number."""
        _, id_ = self.grid.get(point_key(params), (0, self.by_number(number)))
        return id_

    def place(self, params: Point) -> int | None:
        """Return the place of a point in the grid, None where there is none."""
        place, _ = self.grid.get(point_key(params), (None, ""))
        return place


#: The names of a study whose trials have numbers only.
NUMBERED: Final = TrialNames()
