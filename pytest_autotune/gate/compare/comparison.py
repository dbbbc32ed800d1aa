"""Launch the old and the new revision in turn until it is decided which way it goes."""

from __future__ import annotations

import enum
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeAlias

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gate.compare.sequential import Design, bounds
from pytest_autotune.spec.gate import GateSpec

Side: TypeAlias = Literal["old", "new"]
#: Launches one side with a seed, and returns what it measured.
Launch: TypeAlias = Callable[[Side, int], Mapping[str, float]]


class Verdict(str, enum.Enum):
    """What the gate says of a metric, or of a study."""

    PASSED = "passed"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"


class OutOfTime(AutotuneError):
    """The time was up before a launch had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMetric:
    """A metric that is compared, and which way it is better."""

    name: str
    maximize: bool = False

    def slowdown(self, old: float, new: float) -> float:
        """Return how many times worse ``new`` is; infinite or NaN where that has no meaning."""
        if self.maximize:
            old, new = new, old
        if old > 0 and new > 0 and math.isfinite(old) and math.isfinite(new):
            return new / old
        return math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """How a metric compares. ``ratio``, ``low`` and ``high`` are how many times worse it got.

    ``old`` and ``new`` are medians over the launches, in the metric's own unit. ``remaining`` is
    a guess of how many more pairs would decide, None where it is decided or nobody can tell.
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
    """The end of a comparison. ``pairs`` were launched, in ``seconds``.

    ``stopped`` says why it ended undecided, where it did.
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
        """How much longer it would take to be decided, as far as one can tell."""
        guesses = [result.remaining for result in self.results if result.remaining is not None]
        if not guesses or not self.pairs:
            return None
        return max(guesses) * self.seconds / self.pairs


def compare(  # noqa: PLR0913 - what a comparison is
    launch: Launch,
    metrics: Sequence[GatedMetric],
    rule: GateSpec,
    *,
    seed: int = 0,
    deadline: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Launch pairs until every metric has passed, one has regressed, or it has to end.

    Both launches of a pair get the same seed, another for each pair. ``deadline`` is on the
    monotonic clock; ``progress`` is told how many pairs there are. What ``launch`` raises, but for
    :class:`OutOfTime`, is left to the caller. Raises KeyError for a metric that a launch lacks.
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

    One of them suffices for a regression, so each gets its part of the error (Bonferroni); all
    must pass, which takes no correction.
    """
    return Design(
        alpha=rule.alpha / max(metrics, 1), beta=1 - rule.power, max_pairs=rule.max_launches
    )


def _is_decided(results: Sequence[MetricResult]) -> bool:
    """Tell whether further pairs can change nothing; what once had no ratio never will."""
    undecided = [r for r in results if r.verdict is Verdict.INCONCLUSIVE and not r.reason]
    return not undecided or any(r.verdict is Verdict.REGRESSED for r in results)


def _orders(pairs: int, seed: int) -> Iterator[tuple[Side, Side]]:
    """Yield who goes first: by chance, as often either of them, and whatever went before.

    Were the order balanced within every two pairs, a disturbance that lasts from one into the
    next would make both err the same way, and the test more often than it says: at up to 5 % for
    1 % with a neighbour that is busy at a steady beat.
    """
    generator = random.Random(f"order/{seed}")  # noqa: S311 - no secret
    for _ in range(pairs):
        yield ("old", "new") if generator.random() < 1 / 2 else ("new", "old")


def judge(
    metric: GatedMetric, pairs: Sequence[tuple[float, float]], rule: GateSpec, design: Design
) -> MetricResult:
    """Return what the pairs of an (old, new) value so far say of ``metric``."""
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
    """Guess how many more pairs would decide, as an interval narrows with their square root."""
    if not math.isfinite(width):
        return max(design.least_pairs - pairs, 1)
    if distance == 0:
        return None
    needed = pairs * (width / 2 / distance) ** 2
    return max(math.ceil(needed) - pairs, 1) if needed < 100 * design.max_pairs else None
