"""What a search strategy is, and what it gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import Outcome, TrialRecord
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.spec.model import Optimization


@dataclass(frozen=True, kw_only=True)
class History:
    """All trials of a study so far, running ones included, by number."""

    records: Sequence[TrialRecord] = ()

    @cached_property
    def seen(self) -> frozenset[str]:
        """Keys of every point that was run or is running; none may be proposed again."""
        return frozenset(record.key for record in self.records)

    @property
    def informative(self) -> int:
        """Number of finished trials that say something about their score."""
        told = {Outcome.FEASIBLE, Outcome.INFEASIBLE, Outcome.PRUNED}
        return sum(record.outcome in told for record in self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyContext:
    """What a strategy is made from. ``limit`` is the budget in trials, ``seed`` the study's.

    ``hints`` are valid points that did well elsewhere, best first, and worth trying early.
    """

    space: Space
    optimization: Optimization
    limit: int
    seed: int
    slo: SLO = field(default_factory=SLO)
    objective: Objective = field(default_factory=lambda: Objective.parse("minimize_latency"))
    hints: Sequence[Point] = ()


class Strategy(Protocol):
    """Proposes points. Holds no state that matters: everything it needs is in the history.

    That is what makes a study resumable after any kill and lets many workers ask at once.
    """

    def plan(self) -> Sequence[Point] | None:
        """Return all points in order where they are known beforehand (a grid), else None.

        Must depend on the context only, as every worker has to collect the same tests.
        """

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return a valid point that ``history`` has not seen, or None if there is none left.

        Must be a function of its arguments: the same history and seed give the same point.
        """
