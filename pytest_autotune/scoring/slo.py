"""Service level objectives: violation ratios, penalties, compliance.

A bound's *violation ratio* is ``r = (actual - threshold) / threshold``, for a minimum the
other way round. It is zero or less when the bound is met. A soft violation multiplies the
objective: ``penalty = weight * (exp(r / steepness) - 1)``. It is zero at the threshold, so that
an infinitesimal miss costs infinitesimally little. A hard one makes the trial infeasible by ``r``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pytest_autotune.scoring.metrics import Metrics, lookup, problem

LevelPolicy: TypeAlias = Literal["all", "filter", "max"]

#: Ratios are clamped here; also what a missing metric counts as.
MAX_RATIO: Final = 1e9
#: Above this ratio a soft violation is called severe.
SEVERE_RATIO: Final = 0.2
#: The exponential is continued by its tangent from here, so that it cannot overflow.
MAX_EXPONENT: Final = 50.0
MAX_SCORE: Final = 1e300
#: Stands in for a threshold of zero, to which no ratio exists.
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One service level objective: a bound on one metric of a trial.

    ``metrics`` are the names to look up, first one present wins (``p99_e2e_latency``).
    ``upper`` tells a maximum from a minimum. ``fail_ratio`` is the largest tolerated
    violation ratio when ``hard`` is set.
    """

    label: str
    metrics: tuple[str, ...]
    threshold: float
    upper: bool = True
    weight: float = 1.0
    hard: bool = False
    fail_ratio: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """All bounds of a spec; ``steepness`` shapes the soft penalty (see :mod:`..slo`)."""

    bounds: tuple[Bound, ...] = ()
    steepness: float = 0.1
    levels: LevelPolicy = "all"


class Severity(str, enum.Enum):
    """The severity of a bound's result."""

    MET = "met"
    MINOR = "minor"
    SEVERE = "severe"
    HARD = "hard"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundResult:
    """One bound held against one set of metrics.

    ``actual`` is None where the metric cannot be judged; ``problem`` says why, such as ``NaN`` or
    ``not reported``. ``level`` is the label of the load level it was checked at, if it was, and
    ``case`` the name of its case.
    """

    bound: Bound
    actual: float | None
    ratio: float
    severity: Severity
    penalty: float = 0.0
    level: str | None = None
    problem: str = ""
    case: str | None = None

    @property
    def place(self) -> str:
        """The case and the load level it was checked at, empty where it was the whole trial."""
        return ", ".join(filter(None, (self.case, self.level)))

    @property
    def infeasible(self) -> bool:
        """True if this alone makes the trial infeasible."""
        return self.severity in {Severity.HARD, Severity.MISSING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compliance:
    """All bounds of an SLO held against one set of metrics."""

    results: tuple[BoundResult, ...] = ()

    @property
    def feasible(self) -> bool:
        """True if no bound was broken hard."""
        return not any(result.infeasible for result in self.results)

    @property
    def met(self) -> bool:
        """True if every bound was met, soft ones too."""
        return all(result.severity is Severity.MET for result in self.results)

    @property
    def penalty(self) -> float:
        """Sum of the soft penalties, as a share of the objective's magnitude."""
        return math.fsum(result.penalty for result in self.results)

    @property
    def violation(self) -> float:
        """By how much the hard bounds are broken: the sum of their ratios, 0 if feasible."""
        return math.fsum(max(r.ratio, _TINY) for r in self.results if r.infeasible)


def violation_ratio(bound: Bound, actual: float) -> float:
    """Return the violation ratio, clamped to ±``MAX_RATIO``; positive means violated."""
    excess = actual - bound.threshold if bound.upper else bound.threshold - actual
    ratio = excess / max(abs(bound.threshold), _TINY)
    return min(max(ratio, -MAX_RATIO), MAX_RATIO)


def soft_penalty(ratio: float, weight: float, steepness: float) -> float:
    """Return ``weight * (exp(ratio / steepness) - 1)`` for a violation, else 0.

    Strictly rising in ``ratio`` and finite for every input.
    """
    if ratio <= 0:
        return 0.0
    exponent = min(ratio / max(steepness, 1e-12), MAX_RATIO * 1e12)
    if exponent <= MAX_EXPONENT:
        return weight * math.expm1(exponent)
    return weight * (math.exp(MAX_EXPONENT) * (1.0 + exponent - MAX_EXPONENT) - 1.0)


def check_bound(
    bound: Bound, metrics: Metrics, steepness: float, level: str | None = None
) -> BoundResult:
    """Hold ``bound`` against ``metrics``; a missing or non-finite metric fails closed."""
    found = lookup(metrics, bound.metrics)
    if found is None:
        return BoundResult(
            bound=bound, actual=None, ratio=MAX_RATIO, severity=Severity.MISSING, level=level,
            problem=problem(metrics, bound.metrics),
        )  # fmt: skip
    _, actual = found
    ratio = violation_ratio(bound, actual)
    penalty = 0.0
    if ratio <= 0:
        severity = Severity.MET
    elif bound.hard and ratio > bound.fail_ratio:
        severity = Severity.HARD
    else:
        severity = Severity.SEVERE if ratio > SEVERE_RATIO else Severity.MINOR
        penalty = soft_penalty(ratio, bound.weight, steepness)
    return BoundResult(
        bound=bound, actual=actual, ratio=ratio, severity=severity, penalty=penalty, level=level
    )


def check(slo: SLO, metrics: Metrics, level: str | None = None) -> Compliance:
    """Hold every bound of ``slo`` against ``metrics``."""
    return Compliance(
        results=tuple(check_bound(b, metrics, slo.steepness, level) for b in slo.bounds)
    )


def penalized(score: float, penalty: float) -> float:
    """Return the canonical score with a soft penalty added, finite and never better."""
    scale = abs(score) or 1.0
    return min(score + penalty * scale, MAX_SCORE)


def worst(results: Sequence[BoundResult]) -> BoundResult:
    """Return the result with the largest violation ratio."""
    return max(results, key=lambda result: (result.infeasible, result.ratio))
