"""Pin the best configuration of a study, after measuring it and its rivals again.

The best of many trials is partly the luckiest, and its figure is too good. So the trials that came
close to it are launched again, in turn, with seeds that the search did not use. The best of these
is pinned, with its new figures.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

import pytest_autotune
from pytest_autotune.errors import UserError
from pytest_autotune.gate.launch.launcher import Launcher, LaunchFailed, LaunchResult
from pytest_autotune.gate.lock.entry import (
    LockedBound,
    LockedMetric,
    LockEntry,
    LockError,
    digests_of,
    foreign,
    refusal,
    unchanged,
)
from pytest_autotune.gate.lock.fits import check_fits
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, write_lock
from pytest_autotune.gate.metrics import gated_metrics
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import RACE_MARGIN
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import BoundResult
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.study.environment import fingerprint
from pytest_autotune.study.groups import names_of, winner
from pytest_autotune.study.pinned import PINNED
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.summary import Summary
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.values import parameters

#: The number of configurations that are measured again, and of launches of each.
CONTENDERS: Final = 3
LAUNCHES: Final = 3
#: The first seed of these launches. The search used none of them.
_FIRST_SEED: Final = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Locking:
    """The outcome for one study, in words. If ``failed``, the run fails.

    ``entry`` is the new entry of the lock file, None if that stays as it is.
    """

    study: str
    text: str
    entry: LockEntry | None = None
    failed: bool = False
    notes: Sequence[str] = ()


@dataclass(kw_only=True)
class _Contender:
    params: Point
    origin: str
    launches: list[LaunchResult] = field(default_factory=list)
    trouble: str = ""

    @property
    def score(self) -> float | None:
        """The median score, lower is better; None if it does not hold."""
        scores = [launched.score for launched in self.launches if launched.score is not None]
        feasible = [launched.outcome is Outcome.FEASIBLE for launched in self.launches]
        if self.trouble or not scores or sum(feasible) * 2 <= len(feasible):
            return None
        return median(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinning:
    """Pins the best configurations of studies.

    ``launcher`` returns the launcher of a configuration. ``force`` replaces any entry. ``commit``
    names the commit that is checked out. ``say`` is called before work that takes long.
    """

    launcher: Callable[[Point], Launcher]
    force: bool
    commit: str
    say: Callable[[str], None]

    def lock(
        self, summaries: Sequence[Summary], entries: Mapping[str, LockEntry], path: Path
    ) -> list[Locking]:
        """Pin the best configuration of every study that ended, and write the file at ``path``.

        Its ``entries`` of other studies stay as they are. Raises :class:`LockError` if the file
        cannot be written.
        """
        found = [self._lock(summary, entries.get(summary.label)) for summary in summaries]
        new = {locking.study: locking.entry for locking in found if locking.entry is not None}
        if new:
            write_lock(path, {**entries, **new})
        return found

    def _lock(self, summary: Summary, old: LockEntry | None) -> Locking:
        plan, label = summary.plan, summary.label
        if not summary.ended:
            return Locking(study=label, text=f"not pinned: {summary.why_stopped()}")
        best = summary.best
        if best is None:
            return Locking(study=label, text="not pinned: no trial was feasible", failed=True)
        contenders = _contenders(summary, best, old)
        count = len(contenders)
        several = f"the best {count} configurations" if count > 1 else "the best configuration"
        launches = f"{count * LAUNCHES} launches"
        self.say(f"{label}: measuring {several} again, {launches}, before pinning one")
        nodeids = [f"{before}{PINNED}{after}" for before, after in summary.tests]
        _launch_in_turn(contenders, self.launcher, nodeids)
        trouble = (_trouble(contender) for contender in contenders if contender.score is None)
        notes = (*_better_elsewhere(summary), *trouble)
        holding = [contender for contender in contenders if contender.score is not None]
        if not holding:
            text = "not pinned: no configuration held when it was measured again"
            return Locking(study=label, text=text, failed=True, notes=notes)
        winner = min(holding, key=lambda contender: contender.score or 0.0)
        if old is not None and not self.force:
            winner = _worth_it(winner, holding, old, plan.spec.gate.tolerance)
        try:
            entry = _entry(summary, winner, self.commit)
        except UserError as error:
            # The other studies are pinned all the same.
            return Locking(study=label, text=f"not pinned: {error}", failed=True, notes=notes)
        text = f"pinned in {LOCK_NAME}: {_shown(entry)}"
        if old is not None:
            pinned = point_key(old.parameters)
            beaten = any(point_key(c.params) == pinned and c is not winner for c in holding)
            kept = self._kept(plan, old, entry, beaten=beaten)
            if kept is not None:
                return replace(kept, notes=notes)
            if pinned == point_key(entry.parameters):
                text += ", as before, with new figures"
            else:
                text += f", instead of {parameters(old.parameters)}"
        if winner.origin != "winner":
            text += f" ({winner.origin} was better than the search's winner when measured again)"
        return Locking(study=label, text=text, entry=entry, notes=notes)

    def _kept(self, plan: Plan, old: LockEntry, new: LockEntry, *, beaten: bool) -> Locking | None:
        """Return the reason for which the old entry stays, None if the new one replaces it.

        If the old one was ``beaten`` just now, its better figure of another day does not count.
        """
        tolerance = plan.spec.gate.tolerance
        if unchanged(old, new, tolerance):
            text = f"{LOCK_NAME} stays as it is: {_shown(old)} is still the best"
            return Locking(study=new.study, text=text)
        elsewhere = bool(foreign(old, new))
        if self.force or not (elsewhere or (_fits(old, plan) and not beaten)):
            # An entry that does not fit the spec cannot be run, however good it was.
            return None
        why = refusal(old, new, tolerance=tolerance)
        if why is None:
            return None
        text = f"{LOCK_NAME} stays as it is: {why}; --autotune-lock-force replaces it"
        return Locking(study=new.study, text=text, failed=elsewhere)


def _contenders(summary: Summary, best: TrialRecord, old: LockEntry | None) -> list[_Contender]:
    """Return the winner, the trials that came close to it, and the pinned configuration."""
    found = [_Contender(params=best.params, origin="winner")]
    feasible = sorted((r for r in summary.trials if r.rank[0] == 0), key=lambda r: r.rank)
    for record in feasible:
        close = _distance(record, best) <= RACE_MARGIN
        if record.number != best.number and close and len(found) < CONTENDERS:
            found.append(_Contender(params=record.params, origin=f"trial {record.number}"))
    keys = {point_key(contender.params) for contender in found}
    if old is not None and _fits(old, summary.plan) and point_key(old.parameters) not in keys:
        found.append(_Contender(params=old.parameters, origin="the pinned configuration"))
    return found


def _fits(entry: LockEntry, plan: Plan) -> bool:
    """Return whether an entry fits the spec, so that it could be gated."""
    try:
        check_fits(entry, plan)
    except LockError:
        return False
    return True


def _worth_it(
    winner: _Contender, holding: Sequence[_Contender], old: LockEntry, tolerance: float
) -> _Contender:
    """Return the pinned configuration, unless the winner is better by more than the tolerance.

    Otherwise equals would replace each other in the lock file by chance.
    """
    key = point_key(old.parameters)
    pinned = next((each for each in holding if point_key(each.params) == key), None)
    if pinned is None or pinned.score is None or winner.score is None:
        return winner
    return pinned if pinned.score - winner.score <= tolerance * abs(winner.score) else winner


def _distance(record: TrialRecord, best: TrialRecord) -> float:
    if record.score is None or best.score is None or best.score == 0:
        return float("inf")
    return abs(record.score / best.score - 1)


def _launch_in_turn(
    contenders: Sequence[_Contender],
    launcher: Callable[[Point], Launcher],
    nodeids: Sequence[str],
) -> None:
    order = random.Random("lock")  # noqa: S311 - no secret
    launchers = [launcher(contender.params) for contender in contenders]
    for number in range(LAUNCHES):
        turns = list(zip(contenders, launchers, strict=True))
        order.shuffle(turns)
        for contender, launch in turns:
            if contender.trouble:
                continue
            try:
                contender.launches.append(launch.launch(nodeids, _FIRST_SEED + number))
            except LaunchFailed as error:
                contender.trouble = str(error)


def _trouble(contender: _Contender) -> str:
    broken = dict.fromkeys(label for each in contender.launches for label in each.broken)
    why = contender.trouble or f"it broke its SLO {', '.join(broken)}"
    return f"{contender.origin} ({parameters(contender.params)}) did not hold: {why}"


def _better_elsewhere(summary: Summary) -> Iterator[str]:
    """Yield a sentence if another group of a fleet has the best trial of all."""
    won = winner(summary.fleet)
    if won is not None and won is not summary.fleet[0]:
        names = names_of(summary.fleet)
        there = names[summary.fleet.index(won)]
        yield f"{there} has the best of all; what is pinned is the best on {names[0]}, as this is"


def _entry(summary: Summary, winner: _Contender, commit: str) -> LockEntry:
    plan, code = summary.plan, summary.code
    launches = [launched for launched in winner.launches if launched.outcome is Outcome.FEASIBLE]
    common = set.intersection(*(set(launched.metrics) for launched in launches))
    reported = {name: launches[0].metrics[name] for name in common}
    own = replace(plan, spec=replace(plan.spec, gate=replace(plan.spec.gate, metrics=())))
    (compared,) = gated_metrics(own, reported)
    wanted = {compared.name, *(metric.name for metric in gated_metrics(plan, reported))}
    wanted.update(name for bound in plan.spec.slo.bounds for name in bound.metrics)
    metrics = {}
    for name in sorted(wanted & common):
        values = [launched.metrics[name] for launched in launches]
        metrics[name] = LockedMetric(
            median=median(values), low=min(values), high=max(values), launches=len(values)
        )
    return LockEntry(
        study=summary.label,
        spec=plan.spec.name,
        objective=plan.aim,
        metric=compared.name,
        maximize=plan.objective.maximize,
        parameters=dict(winner.params),
        metrics=metrics,
        slo=tuple(_tightest(launches)),
        fingerprint=fingerprint(),
        digests=digests_of(plan.key()),
        commit=commit,
        locked=dt.datetime.now(dt.timezone.utc).date().isoformat(),
        by=f"pytest-autotune {pytest_autotune.__version__}",
        code={} if code is None else code.digests_now(),
    )


def _tightest(launches: Sequence[LaunchResult]) -> list[LockedBound]:
    """Return each bound of the SLO in the launch that came closest to breaking it."""
    found: dict[tuple[str, bool], BoundResult] = {}
    for launched in launches:
        for result in launched.bounds:
            key = (result.bound.label, result.bound.upper)
            if key not in found or result.ratio > found[key].ratio:
                found[key] = result
    return [LockedBound.of(result) for result in found.values()]


def _shown(entry: LockEntry) -> str:
    figure = quantity(entry.metric, entry.median)
    _, _, cases = entry.objective.partition(", ")
    which = f" ({cases})" if cases else ""
    return f"{parameters(entry.parameters)}, {entry.metric} {figure}{which}"
