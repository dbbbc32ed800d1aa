"""Compare one pinned study: with an old revision, or with the baseline in the lock file."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import AutotuneError, UserError
from pytest_autotune.gate.compare.baseline import LEAST_SESSIONS, compare_with_baseline
from pytest_autotune.gate.compare.comparison import GatedMetric, Side, compare
from pytest_autotune.gate.history import results as history
from pytest_autotune.gate.launch.harness import Harness
from pytest_autotune.gate.launch.launcher import Launcher, LaunchFailed, LaunchResult
from pytest_autotune.gate.lock.entry import LockEntry, digests_of
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, parse_lock
from pytest_autotune.gate.metrics import gated_metrics
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.gate.revision.dependencies import changed_dependency_files
from pytest_autotune.gate.revision.git import RevisionError
from pytest_autotune.gate.revision.repository import Commit, Repository
from pytest_autotune.gate.revision.worktree import worktree
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.environment import environment_changes, fingerprint
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.trial_line import broken_bounds

#: The number of latest sessions whose differences count.
_SESSIONS: Final = 20
#: Failures that may be bad luck: such a launch is repeated once.
_REPEATED: Final = frozenset({"failed", "crashed"})
_SIDES: Final[Mapping[Side, str]] = {"old": "the old revision", "new": "the working tree"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A pinned study whose own tests have run: ``nodeids`` are those that report."""

    plan: Plan
    entry: LockEntry
    record: TrialRecord | None
    nodeids: Sequence[str]


class _SideFailed(AutotuneError):
    """One side has no result; ``details`` are the end of its output."""

    def __init__(self, side: Side, cause: LaunchFailed) -> None:
        self.side = side
        self.details = cause.details
        if side == "old":
            msg = f"the old revision gave nothing to compare with: {cause} ({cause.kind})"
        else:
            msg = f"a launch of the working tree failed: {cause}"
        super().__init__(msg)


@dataclass(frozen=True, kw_only=True)
class _OldRevision:
    """The old revision, checked out; ``entries`` is None where its lock file is unusable."""

    title: str
    tree: Path
    entries: Mapping[str, LockEntry] | None
    notes: Sequence[str]
    prepared: set[tuple[str, ...]] = field(default_factory=set)


@dataclass(kw_only=True)
class Judge:
    """Compares studies of one run.

    ``against`` is the old revision, None for the stored baseline. ``state`` is the folder of the
    history, ``logs`` that of the logs. ``deadline`` is on the monotonic clock. ``say`` is called
    with a study and the number of its pairs. Close ``resources`` at the end.
    """

    harness: Harness
    against: str | None
    state: Path
    logs: Path
    deadline: float | None
    say: Callable[[str, int], None]
    resources: ExitStack = field(default_factory=ExitStack)
    _old: _OldRevision | None = None

    def judge(self, case: Case) -> GateOutcome:
        """Return the outcome of the gate for a study."""
        plan, record = case.plan, case.record
        known: dict[str, Any] = {
            "study": plan.label,
            "parameters": case.entry.parameters,
            "tolerance": plan.spec.gate.tolerance,
        }
        if record is not None and record.outcome is Outcome.INFEASIBLE:
            reason = f"SLO broken: {broken_bounds(record).removeprefix('infeasible: ')}"
            return GateOutcome(judgement="failed", mode="none", reason=reason, **known)
        if record is None or record.outcome is not Outcome.FEASIBLE:
            why = "" if record is None else f" ({record.reason or record.outcome.value})"
            reason = f"its own tests did not pass{why}, so there is nothing to compare"
            return GateOutcome(judgement="skipped", mode="none", reason=reason, **known)
        known["mode"] = "revision" if self.against else "baseline"
        try:
            reported = {name: v for name, v in record.metrics.items() if math.isfinite(v)}
            metrics = gated_metrics(plan, reported)
            if self.against:
                return self._with_revision(case, metrics, self.against, known)
            return self._with_baseline(case, metrics, known)
        except (RevisionError, OSError) as error:
            # That is no fault of the new code.
            return GateOutcome(judgement="inconclusive", reason=str(error), **known)
        except UserError as error:
            return GateOutcome(judgement="failed", reason=str(error), **known)
        except (_SideFailed, LaunchFailed) as error:
            new = isinstance(error, _SideFailed) and error.side == "new"
            return GateOutcome(
                judgement="failed" if new else "inconclusive",
                reason=str(error), details=error.details, **known,
            )  # fmt: skip

    def _with_revision(
        self, case: Case, metrics: Sequence[GatedMetric], rev: str, known: dict[str, Any]
    ) -> GateOutcome:
        old, plan, entry = self._old_revision(rev), case.plan, case.entry
        notes = [*self.harness.notes, *old.notes, *_on_cases(case)]
        known |= {"against": old.title, "notes": notes}
        theirs = (old.entries or {}).get(plan.label)
        params: Mapping[str, Any] = entry.parameters
        if theirs is None and old.entries is not None:
            notes.append(
                "the old revision pins nothing for this study: it was run with the same parameters"
            )
        if theirs is not None:
            if theirs.digests["workload"] != digests_of(plan.key())["workload"]:
                reason = "the model or the benchmark changed, so their figures do not compare"
                return GateOutcome(judgement="inconclusive", reason=reason, **known)
            if theirs.digests["server"] != digests_of(plan.key())["server"]:
                notes.append("the server's settings or runtime changed between the revisions")
            if dict(theirs.parameters) != dict(entry.parameters):
                params = theirs.parameters
                known["changed"] = dict(params)
        if plan.spec.server is not None and plan.spec.server.backend == "url":
            notes.append("both revisions were measured on the same server, as its URL is given")
        log = self.logs
        before = self.harness.launcher(params, log / "gate-old.log", old.tree)
        # Figures only compare if their cases combine in the same way.
        before = replace(before, rule={"cases": plan.spec.optimization.cases})
        sides: dict[Side, Launcher] = {
            "old": before,
            "new": self.harness.launcher(entry.parameters, log / "gate-new.log"),
        }
        launch = _Launches(sides, case.nodeids, metrics, self.deadline, notes)
        self.harness.prepare(plan.spec.gate.prepare, old.tree, old.prepared)
        comparison = compare(
            launch, metrics, plan.spec.gate,
            seed=_seed(plan), deadline=self.deadline, progress=partial(self.say, plan.label),
        )  # fmt: skip
        launch.note_missed()
        return GateOutcome.of(comparison, **known)

    def _old_revision(self, rev: str) -> _OldRevision:
        if self._old is None:
            repository = Repository.find(self.harness.root)
            commit = repository.resolve(rev)
            tree = self.resources.enter_context(worktree(repository, commit))
            self._old = _read_revision(self.harness.root, repository, commit, rev, tree)
        return self._old

    def _with_baseline(
        self, case: Case, metrics: Sequence[GatedMetric], known: dict[str, Any]
    ) -> GateOutcome:
        plan, entry = case.plan, case.entry
        notes = [*self.harness.notes, *_on_cases(case)]
        known |= {"against": f"what was locked on {entry.locked}", "notes": notes}
        obstacle = _obstacle(plan, entry, metrics)
        if obstacle:
            return GateOutcome(judgement="skipped", reason=obstacle, **known)
        baseline = {metric.name: entry.metrics[metric.name].median for metric in metrics}
        earlier = history.read(self.state)
        since = [result for result in earlier.results if result.time >= _locked_at(entry)]
        sessions = {
            name: [
                locked,
                *history.session_spread(
                    since, study=plan.label, metric=name,
                    parameters=entry.parameters, fingerprint=fingerprint(),
                )[-_SESSIONS:],
            ]
            for name, locked in baseline.items()
        }  # fmt: skip
        launcher = self.harness.launcher(entry.parameters, self.logs / "gate-new.log")
        launch = _Launches({"new": launcher}, case.nodeids, metrics, self.deadline, notes)
        comparison = compare_with_baseline(
            partial(launch, "new"), metrics, plan.spec.gate,
            baseline=baseline, sessions=sessions, seed=_seed(plan), deadline=self.deadline,
        )  # fmt: skip
        launch.note_missed()
        notes += earlier.problems
        seen = min(map(len, sessions.values()))
        if seen < LEAST_SESSIONS:
            notes.append(
                f"{seen} of the {LEAST_SESSIONS} sessions were seen that show how much sessions on "
                "this machine differ; pytest's cache keeps them"
            )
        return GateOutcome.of(comparison, **known)


@dataclass(frozen=True)
class _Launches:
    """Launches either side, repeats a failed launch, and returns the compared metrics."""

    sides: Mapping[Side, Launcher]
    nodeids: Sequence[str]
    metrics: Sequence[GatedMetric]
    deadline: float | None
    notes: list[str]
    missed: dict[Side, list[str]] = field(default_factory=lambda: {"old": [], "new": []})

    def __call__(self, side: Side, seed: int) -> Mapping[str, float]:
        """Return the compared metrics of a launch.

        Raises :class:`_SideFailed`, and :class:`.OutOfTime`.
        """
        try:
            launched = self._launch(side, seed)
        except LaunchFailed as error:
            raise _SideFailed(side, error) from None
        missing = [m.name for m in self.metrics if m.name not in launched.metrics]
        if missing:
            cause = LaunchFailed("nothing reported", f"it did not report {', '.join(missing)}")
            raise _SideFailed(side, cause)
        self.missed[side] += launched.missed
        return {metric.name: launched.metrics[metric.name] for metric in self.metrics}

    def _launch(self, side: Side, seed: int) -> LaunchResult:
        launcher = self.sides[side]
        try:
            return launcher.launch(self.nodeids, seed, self.deadline)
        except LaunchFailed as error:
            if error.kind not in _REPEATED:
                raise
            first = str(error)
        launched = launcher.launch(self.nodeids, seed, self.deadline)
        self.notes.append(f"a launch of {_SIDES[side]} failed, and did not when repeated: {first}")
        return launched

    def note_missed(self) -> None:
        """Add notes on the bounds that single launches missed."""
        self.notes.extend(
            f"SLO {label} was missed in {labels.count(label)} launches of {_SIDES[side]}"
            for side, labels in self.missed.items()
            for label in dict.fromkeys(labels)
        )


def _on_cases(case: Case) -> list[str]:
    """Return a note on how the compared figures are made of several cases."""
    rule = case.plan.spec.optimization.cases
    cases = None if case.record is None else case.record.judgement.cases
    if rule is None or cases is None:
        return []
    return [f"each figure is the {rule} of {len(cases.values)} cases: {', '.join(cases.values)}"]


def _read_revision(
    root: Path, repository: Repository, commit: Commit, rev: str, tree: Path
) -> _OldRevision:
    """Return a revision with the entries of its lock file, and notes on what differs."""
    name = rev if rev == commit.short else f"{rev} = {commit.short}"
    entries: Mapping[str, LockEntry] | None = {}
    notes = []
    text = repository.file_at(commit, root / LOCK_NAME)
    if text is not None:
        try:
            entries = parse_lock(text, f"{LOCK_NAME} of {commit.short}")
        except UserError as error:
            entries = None
            notes.append(f"{error}; it was run with what is pinned now")
    declared = changed_dependency_files(repository, commit, root)
    if declared:
        notes.append(
            f"dependencies differ in {', '.join(declared)}: both revisions were run with what is "
            "installed here"
        )
    title = f'{name} "{commit.subject}"'
    return _OldRevision(title=title, tree=tree, entries=entries, notes=notes)


def _obstacle(plan: Plan, entry: LockEntry, metrics: Sequence[GatedMetric]) -> str:
    """Return the reason against a comparison with the stored baseline, empty without one."""
    changes = environment_changes(entry.fingerprint, fingerprint())
    if changes:
        return (
            f"the baseline is from another environment ({'; '.join(changes)}): compare with a "
            "revision (--autotune-against REV), or lock it here"
        )
    digests = digests_of(plan.key())
    if any(digests[part] != entry.digests[part] for part in ("workload", "server")):
        return "the baseline was measured with another workload"
    unknown = [metric.name for metric in metrics if metric.name not in entry.metrics]
    if unknown:
        return f"the baseline does not have {', '.join(unknown)}"
    return ""


def _locked_at(entry: LockEntry) -> float:
    """Return the beginning of an entry's day. Earlier results are of other code."""
    day = dt.date.fromisoformat(entry.locked)
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.timezone.utc).timestamp()


def deadline_of(started: float, timeout: float | None) -> float | None:
    """Return the end of a run that began at ``started``, both on the monotonic clock."""
    return None if timeout is None else started + timeout


def _seed(plan: Plan) -> int:
    """Return the first seed for launches. The search has used none of them."""
    return plan.seed + 1_000_000
