"""The cases of a trial, such as shapes, and the rules by which they combine to one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.text.numbers import number, quantity

#: How the objective's values in several cases combine.
CaseRule: TypeAlias = Literal["geomean", "mean", "worst"]
#: Ends the name of a metric that is a ratio to the first complete trial.
_RATIO: Final = "_ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The reports of a trial in one case: the other parameters of its tests, such as a shape.

    ``name`` is the id that pytest gives them, such as ``m128-n64``. ``missing`` are the metrics
    that a test reported in other cases and not in this one, although it ran here.
    """

    name: str
    metrics: Metrics = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of all metrics that were reported, those of levels included."""
        return frozenset(
            (*self.metrics, *(name for level in self.levels for name in level.metrics))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The objective in each case of the first complete trial of a study."""

    trial: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseValues:
    """The objective in each case, and the rule by which the cases combine.

    ``metric`` is what was measured in each case. With a ``reference`` the geometric mean is of
    ratios to it, else of the values themselves.
    """

    rule: CaseRule
    metric: str
    values: Mapping[str, float]
    maximize: bool = False
    reference: Reference | None = None

    @property
    def name(self) -> str:
        """The name of the metric that the combined value is one of."""
        return self.metric if self.base is None else self.metric + _RATIO

    @property
    def base(self) -> Reference | None:
        """The trial that the combined value is a ratio to, None where it is none."""
        return self.reference if self.rule == "geomean" else None

    @property
    def value(self) -> float:
        """The combined value."""
        if self.base is None:
            return self.absolute
        ratios = {case: value / self.base.values[case] for case, value in self.values.items()}
        return combine(self.rule, list(ratios.values()), maximize=self.maximize)

    @property
    def absolute(self) -> float:
        """The combined value in the metric's own unit, whatever the reference."""
        return combine(self.rule, list(self.values.values()), maximize=self.maximize)

    @property
    def amount(self) -> str:
        """The combined value as text: ``12.5 ms``, or how many times that of a trial."""
        if self.base is None:
            return quantity(self.metric, self.value)
        return f"{number(self.value)} × trial {self.base.trial}"

    @property
    def description(self) -> str:
        """The combined value in words: ``p50_ttft, mean of 3 cases: 12.5 ms``."""
        count = len(self.values)
        cases = "1 case" if count == 1 else f"{count} cases"
        where = ""
        if self.rule == "worst":
            pick = min if self.maximize else max
            where = f" ({pick(self.values, key=self.values.__getitem__)})"
        return f"{self.metric}, {self.rule} of {cases}: {self.amount}{where}"


def combine(rule: CaseRule, values: Sequence[float], *, maximize: bool) -> float:
    """Return one value for those of all cases. A geometric mean needs positive ones."""
    if rule == "worst":
        return min(values) if maximize else max(values)
    if rule == "mean":
        return math.fsum(value / len(values) for value in values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def lost_at(
    rule: CaseRule, bar: float, known: Sequence[float], *, left: int, maximize: bool
) -> float | None:
    """Return the value of one more case beyond which the combined value is worse than ``bar``.

    ``known`` are the values of the cases before it, and ``left`` counts those after it, which may
    bring anything above 0. None where they can make good for everything.
    """
    if rule == "worst":
        return bar
    count = len(known) + 1 + left
    if rule == "mean":
        if maximize and left:
            return None
        return bar * count - math.fsum(known)
    if left:
        return None
    return math.exp(count * math.log(bar) - math.fsum(map(math.log, known)))


def clashes(outside: Case, cases: Sequence[Case]) -> dict[str, list[str]]:
    """Return the metrics that were reported more than once, with the names of their cases.

    What was reported outside of cases has an empty name.
    """
    found: dict[str, list[str]] = {}
    for case in (outside, *cases):
        for name in case.metrics:
            found.setdefault(name, []).append(case.name)
    measured: dict[tuple[object, ...], list[Case]] = {}
    for case in (outside, *cases):
        for level in case.levels:
            measured.setdefault(level.identity, []).append(case)
    for several in measured.values():
        for case in several if len(several) > 1 else ():
            for name in case.names - set(case.metrics):
                found[name] = [*dict.fromkeys((*found.get(name, ()), case.name))]
    return {name: names for name, names in found.items() if len(names) > 1}


def clash_reason(metric: str, names: Sequence[str]) -> str:
    """Return why a trial has no result where cases report one metric and no rule combines them."""
    shown = ", ".join(name or "outside of cases" for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""  # noqa: PLR2004
    return (
        f"{metric} was reported in {len(names)} cases ({shown}{more}), and the spec does not say "
        "how they combine: write 'cases: geomean', 'cases: mean' or 'cases: worst' in it"
    )
