"""The end of a study as data: what was found, why it stopped, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.scoring.slo import BoundResult
from pytest_autotune.scoring.wording import limits, unjudged
from pytest_autotune.study.code import Code
from pytest_autotune.study.commands import repeating
from pytest_autotune.study.groups import Group, own_environment
from pytest_autotune.study.names import NUMBERED, TrialNames
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.repeated import LIMIT, Failures, failures, repeated_failure
from pytest_autotune.study.search_options import SearchOptions
from pytest_autotune.text.durations import duration
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.values import parameters


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One study at the end of a session.

    ``capacity`` is how many trials the study can have: its budget, or fewer in a small space.
    ``tests`` are the node ids of its tests, each cut in two where the slot's id goes; ``names``
    are the names that its trials have in this run. ``notices`` are one sentence each; ``caution``
    is a reason not to believe the result. ``code`` is the code of its trials, where that is known.
    ``running`` are the numbers of trials that run now, in another session. ``search`` are the
    options that it began with, None for those of the plan. ``groups`` are other groups of a fleet.
    """

    plan: Plan
    records: Sequence[TrialRecord]
    stop: Stop | None
    session: str
    capacity: int
    code: Code | None = None
    running: Collection[int] = ()
    search: SearchOptions | None = None
    groups: Sequence[Group] = ()
    tests: Sequence[tuple[str, str]] = ()
    names: TrialNames = NUMBERED
    notices: Sequence[str] = ()
    caution: str = ""

    @property
    def label(self) -> str:
        """Name of the study."""
        return self.plan.label

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """Trials that count: re-measured ones once."""
        return effective(self.records)

    @cached_property
    def finished(self) -> list[TrialRecord]:
        """Trials that ran to some end."""
        return [record for record in self.trials if record.finished]

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best feasible trial so far."""
        return incumbent(self.trials)

    @cached_property
    def fleet(self) -> Sequence[Group]:
        """All groups of a fleet, its own one first; none where there is no other one."""
        if not self.groups:
            return ()
        own = Group(environment=own_environment(self.plan), records=self.records)
        return (own, *self.groups)

    @cached_property
    def repeated(self) -> Failures | None:
        """The failure in which every trial ended, where that stopped the study."""
        return repeated_failure(self.trials)

    @cached_property
    def failures(self) -> Sequence[Failures]:
        """Trials without a result by what went wrong, the most frequent first."""
        return failures(self.trials)

    @property
    def ended(self) -> bool:
        """True if the search is over, rather than interrupted or run on a selection."""
        reasons = (self.stop, self.repeated)
        return any(reasons) or len(self.finished) >= self.capacity

    @property
    def failed(self) -> bool:
        """The verdict: a study that ended without a feasible configuration fails the run.

        Unless its tests skipped every trial, as they do where they cannot run at all.
        """
        skipped = bool(self.finished) and self.count(Outcome.SKIPPED) == len(self.finished)
        return self.ended and self.best is None and not skipped

    def count(self, outcome: Outcome) -> int:
        """Return the number of trials that ended so."""
        return sum(record.outcome is outcome for record in self.trials)

    def counts(self) -> str:
        """Return the numbers of trials by outcome, in words."""
        soft = sum(1 for r in self.trials if r.outcome is Outcome.FEASIBLE and r.penalty > 0)
        here = sum(r.owner.session == self.session for r in self.finished)
        parts = [
            f"{self.count(Outcome.FEASIBLE)} feasible" + (f" ({soft} penalized)" if soft else ""),
            *(
                f"{self.count(outcome)} {outcome.value}"
                for outcome in (
                    Outcome.INFEASIBLE,
                    Outcome.FAILED,
                    Outcome.PRUNED,
                    Outcome.SKIPPED,
                )
                if self.count(outcome)
            ),
        ]
        elsewhere = len(self._elsewhere)
        unfinished = len(self.trials) - len(self.finished) - elsewhere
        if elsewhere:
            parts.append(f"{elsewhere} running in another session")
        if unfinished:
            parts.append(f"{unfinished} interrupted, to be run again")
        earlier = len(self.finished) - here
        other = "other" if self._is_shared else "earlier"
        resumed = f"; {earlier} of them in {other} runs" if earlier > 0 else ""
        over = len(self.finished) - self.plan.budget
        share = f", {over} over the budget" if over > 0 else self._share()
        return f"{len(self.finished)}{share}: {', '.join(parts)}{resumed}"

    def _share(self) -> str:
        return f" of {max(self.capacity, len(self.finished))}"

    @property
    def _elsewhere(self) -> list[TrialRecord]:
        """Trials that another session runs now."""
        return [r for r in self.trials if not r.finished and r.number in self.running]

    @property
    def _is_shared(self) -> bool:
        """True if another session began trials after this one did."""
        own = [r.owner.started for r in self.trials if r.owner.session == self.session]
        others = [r.owner.started for r in self.trials if r.owner.session != self.session]
        return bool(own and others) and max(others) > min(own)

    def why_stopped(self) -> str:
        """Return why no further trial was started, as a phrase."""
        plan = self.plan
        if self.repeated is not None:
            others = self.capacity > len(self.finished)
            return (
                f"the first {LIMIT} trials failed in the same way; they do not count, and the next "
                f"run {'begins with others' if others else 'repeats them'}"
            )
        waits = self.stop not in {Stop.PATIENCE, Stop.TIMEOUT}
        if self._elsewhere and waits and len(self.trials) >= self.capacity:
            return f"another session runs the rest of the {self.capacity} trials"
        used_up = f"the budget of {plan.budget} trials is used up"
        if len(self.finished) > plan.budget:
            used_up = f"earlier runs used more than the budget of {plan.budget} trials"
        match self.stop:
            case Stop.EXHAUSTED:
                return "every valid combination has been tried"
            case Stop.PATIENCE:
                return f"nothing improved in {plan.patience} trials"
            case Stop.TIMEOUT:
                return f"the time limit of {duration(plan.timeout or 0)} was reached"
            case Stop.BUDGET:
                return used_up
        if len(self.finished) >= plan.budget:
            return used_up
        if len(self.finished) >= self.capacity:
            return "every valid combination has been tried"
        return "the session ended first; run again to resume"

    def commands(self) -> list[str]:
        """Return the command that repeats the study, and the one that repeats its best trial."""
        return repeating(self.plan, self.search, self.tests, self.best, self.names)

    def tightest(self) -> str:
        """Return the SLO that stood in the way when nothing was feasible.

        That is the bound that even its best trial missed by most; the trial that came
        closest overall is named with it.
        """
        infeasible = [r for r in self.trials if r.outcome is Outcome.INFEASIBLE and r.bounds]
        results = [result for record in infeasible for result in record.bounds]
        least: dict[str, BoundResult] = {}
        for result in results:
            known = least.get(result.bound.label)
            if known is None or result.ratio < known.ratio:
                least[result.bound.label] = result
        labels = {result.bound.label for result in results if result.infeasible}
        if not labels:
            return ""
        name = max(labels, key=lambda key: (least[key].ratio, key))
        result, metric = least[name], least[name].bound.metrics[0]
        closest = min(infeasible, key=lambda record: (record.violation, record.number))
        if result.actual is None:
            problem = result.problem or "not reported"
            if problem == "not reported":
                return f"{name} {limits(result.bound)}: no trial reported {metric}"
            return f"{name} {limits(result.bound)}: {unjudged(result)} in trial {closest.number}"
        came = f"the best of {len(infeasible)} trials reached {quantity(metric, result.actual)}"
        if result.ratio <= 0:
            came += ", but broke another bound"
        return (
            f"{name} {limits(result.bound)}: {came}; "
            f"trial {closest.number} came closest overall ({parameters(closest.params)})"
        )

    def document(self) -> dict[str, Any]:
        """Return the summary as plain JSON types, for the cache."""
        best = self.best
        return {
            "verdict": {
                "verdict": "failed" if self.failed else "passed" if self.ended else "unfinished",
                "stopped": self.why_stopped(),
                "trials": self.counts(),
            },
            "slots": {record.owner.slot: dict(record.params) for record in self.trials},
            "incumbent": None
            if best is None
            else {
                "trial": best.number,
                "params": dict(best.params),
                "metric": best.metric,
                "value": best.value,
            },
        }
