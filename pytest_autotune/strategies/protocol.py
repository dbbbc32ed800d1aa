"""The protocol of search strategies, for those that are built in and for plugins.

A strategy decides which point of the space the next trial measures. To add one, write a class with
the two methods of :class:`Strategy`, or a subclass of it with the second. Return an instance from
the hook ``pytest_autotune_make_strategy``:

    class Halving(Strategy):
        def __init__(self, context: StrategyContext) -> None:
            self.space = context.space

        def propose(self, history: History, seed: Sequence[int]) -> Point | None:
            ...
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.spec.model import Optimization
from pytest_autotune.strategies.seen import SeenPoints


@dataclass(frozen=True, kw_only=True)
class History:
    """All trials of a study so far, in the order of their numbers, running ones included.

    ``estimates`` are trials of an earlier question that were cut short. They say something about
    their points, which may be proposed again. ``later`` are keys of points that are not to be
    proposed now. ``known`` has the points of ``records``, where somebody has kept them.
    """

    records: Sequence[TrialRecord] = ()
    estimates: Sequence[TrialRecord] = ()
    later: frozenset[str] = frozenset()
    known: SeenPoints | None = field(default=None, compare=False, repr=False)

    @cached_property
    def points(self) -> SeenPoints:
        """The points of all trials."""
        return SeenPoints(self.records) if self.known is None else self.known

    @property
    def seen(self) -> AbstractSet[str]:
        """The keys of all points that were run, are running or wait. None may be proposed."""
        return self.points.keys | self.later if self.later else self.points.keys

    @property
    def informative(self) -> int:
        """The number of finished trials whose score is known, at least in part."""
        told = {Outcome.FEASIBLE, Outcome.INFEASIBLE, Outcome.PRUNED}
        return sum(record.outcome in told for record in self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyContext:
    """Everything that a strategy is made from.

    ``limit`` is the budget in trials, and ``seed`` is the study's. ``hints`` are valid points that
    did well elsewhere, best first, and are worth trying early.
    """

    space: Space
    optimization: Optimization
    limit: int
    seed: int
    slo: SLO = field(default_factory=SLO)
    objective: Objective = field(default_factory=lambda: Objective.parse("minimize_latency"))
    hints: Sequence[Point] = ()


class Strategy(Protocol):
    """A search strategy: a function from the history of a study to the next point.

    It holds no state that matters, as everything it needs is in the history. So a study can be
    resumed after any kill, and many workers can ask at once.
    """

    def plan(self) -> Sequence[Point] | None:
        """Return all points in order if they are known beforehand, as in a grid, else None.

        The answer must depend on the context only: every worker has to collect the same tests.
        """
        return None

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return a valid point that ``history`` has not seen, or None if there is none left.

        The same history and seed must give the same point.
        """
