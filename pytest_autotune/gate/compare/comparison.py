"""Launch the old and the new revision in pairs until the comparison is decided."""

from __future__ import annotations

import enum
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeAlias

from pytest_autotune.errors import OutOfTime
from pytest_autotune.gate.compare.sequential import Design, bounds
from pytest_autotune.spec.gate import GateSpec

Side: TypeAlias = Literal["old", "new"]


class Verdict(str, enum.Enum):
    """The verdict of the gate on a metric, or on a study."""

    PASSED = "passed"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMetric:
    """A compared metric, and its better direction."""

    name: str
    maximize: bool = False

    def slowdown(self, old: float, new: float) -> float:
        """Return the factor by which ``new`` is worse, NaN without a ratio."""
        if self.maximize:
            old, new = new, old
        if old > 0 and new > 0 and math.isfinite(old) and math.isfinite(new):
            return new / old
        return math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """The comparison of a metric.

    ``ratio``, ``low`` and ``high`` are factors by which it got worse.
    ``old`` and ``new`` are medians over the launches, in the metric's own unit. ``remaining``
    estimates the number of further pairs that would decide, None if it is decided or unknown.
    """

    metric: GatedMetric
    verdict: Verdict
    old: float
    new: float
    ratio: float
    low: float
    high: float
    confidence: float
    remaining: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison of so many ``pairs``, which took ``seconds``.

    ``stopped`` is the reason for which it ended undecided, empty if it did not.
    """

    results: Sequence[MetricResult]
    pairs: int
    seconds: float
    stopped: str = ""
    notes: Sequence[str] = ()
    values: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all metrics together."""
        verdicts = {result.verdict for result in self.results}
        for verdict in (Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.IMPROVED):
            if verdict in verdicts:
                return verdict
        return Verdict.PASSED if verdicts else Verdict.INCONCLUSIVE

    @property
    def remaining_seconds(self) -> float | None:
        """An estimate of the time until it would be decided, None without one."""
        guesses = [result.remaining for result in self.results if result.remaining is not None]
        if not guesses or not self.pairs:
            return None
        return max(guesses) * self.seconds / self.pairs


def compare(  # noqa: PLR0913 - what a comparison is
    launch: Callable[[Side, int], Mapping[str, float]],
    metrics: Sequence[GatedMetric],
    rule: GateSpec,
    *,
    seed: int = 0,
    deadline: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Launch pairs until every metric has passed, one has regressed, or there are no more.

    ``launch`` runs one side with a seed and returns its metrics. Both launches of a pair get
    the same seed, each pair another. ``deadline`` is on the monotonic
    clock; ``progress`` is called with the number of pairs. Errors of ``launch`` are left to the
    caller, except :class:`.OutOfTime`. Raises KeyError for a metric that a launch lacks.
    """
    began = time.monotonic()
    design = design_for(rule, len(metrics))
    pairs: dict[str, list[tuple[float, float]]] = {metric.name: [] for metric in metrics}
    results: list[MetricResult] = []
    stopped = ""
    for number, order in enumerate(_orders(rule.max_launches, seed)):
        taken = time.monotonic() - began
        if deadline is not None and number and began + taken * (1 + 1 / number) > deadline:
            stopped = "the time was up"
            break
        try:
            found = {side: launch(side, seed + number) for side in order}
        except OutOfTime:
            stopped = "the time was up"
            break
        for name, values in pairs.items():
            values.append((found["old"][name], found["new"][name]))
        progress(number + 1)
        results = [judge(metric, pairs[metric.name], rule, design) for metric in metrics]
        if _is_decided(results):
            break
    else:
        stopped = f"{rule.max_launches} launches of each were not enough"
    return Comparison(
        results=results,
        pairs=len(next(iter(pairs.values()), ())),
        seconds=time.monotonic() - began,
        stopped="" if results and _is_decided(results) else stopped,
        values=pairs,
    )


def design_for(rule: GateSpec, metrics: int) -> Design:
    """Return the design for each of so many metrics.

    One metric suffices for a regression, so each gets its part of the error (Bonferroni). All
    metrics must pass, which needs no correction.
    """
    return Design(
        alpha=rule.alpha / max(metrics, 1), beta=1 - rule.power, max_pairs=rule.max_launches
    )


def _is_decided(results: Sequence[MetricResult]) -> bool:
    """Return whether further pairs change nothing. A metric without a ratio never has one."""
    undecided = [r for r in results if r.verdict is Verdict.INCONCLUSIVE and not r.reason]
    return not undecided or any(r.verdict is Verdict.REGRESSED for r in results)


def _orders(pairs: int, seed: int) -> Iterator[tuple[Side, Side]]:
    """Yield the order of each pair, by the toss of a coin.

    An order that is balanced over every two pairs would be wrong: a disturbance that lasts from one
    pair into the next affects both in the same way. With a neighbour that is busy at a steady beat,
    the error was up to 5 % instead of 1 %.
    """
    generator = random.Random(f"order/{seed}")  # noqa: S311 - no secret
    for _ in range(pairs):
        yield ("old", "new") if generator.random() < 1 / 2 else ("new", "old")


def judge(
    metric: GatedMetric, pairs: Sequence[tuple[float, float]], rule: GateSpec, design: Design
) -> MetricResult:
    """Return the result of ``metric`` after these pairs of an (old, new) value."""
    old, new = (median(values) for values in zip(*pairs, strict=True))
    slowdowns = [metric.slowdown(*pair) for pair in pairs]
    common: dict[str, Any] = {
        "metric": metric, "old": old, "new": new, "confidence": design.confidence,
    }  # fmt: skip
    if not all(value > 0 and math.isfinite(value) for value in slowdowns):
        reason = f"{metric.name} was 0, negative or no number in a launch, so there is no ratio"
        return MetricResult(
            verdict=Verdict.INCONCLUSIVE, ratio=math.nan, low=0.0, high=math.inf,
            reason=reason, **common,
        )  # fmt: skip
    found = bounds([math.log(value) for value in slowdowns], design)
    limit = math.log1p(rule.tolerance)
    verdict, remaining = Verdict.INCONCLUSIVE, None
    if found.surely_above > limit:
        verdict = Verdict.REGRESSED
    elif found.high < -limit:
        verdict = Verdict.IMPROVED
    elif found.high < limit:
        verdict = Verdict.PASSED
    else:
        remaining = _remaining(found.estimate - limit, found.high - found.low, len(pairs), design)
    return MetricResult(
        verdict=verdict,
        ratio=math.exp(found.estimate),
        low=math.exp(found.low),
        high=math.exp(found.high),
        remaining=remaining,
        **common,
    )


def _remaining(distance: float, width: float, pairs: int, design: Design) -> int | None:
    """Estimate the number of further pairs: the interval narrows with their square root."""
    if not math.isfinite(width):
        return max(design.least_pairs - pairs, 1)
    if distance == 0:
        return None
    needed = pairs * (width / 2 / distance) ** 2
    return max(math.ceil(needed) - pairs, 1) if needed < 100 * design.max_pairs else None
