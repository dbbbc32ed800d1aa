"""One entry of the lock file: a pinned configuration, and its comparison with another."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pytest_autotune.errors import UserError
from pytest_autotune.scoring.slo import BoundResult
from pytest_autotune.space.parameters import point_key
from pytest_autotune.study.environment import HARDWARE, environment_changes
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.values import canonical

#: Keys of the workload: the rest of a plan's workload is how it is served.
_ASKED: Final = frozenset({"model", "benchmark"})


class LockError(UserError):
    """The lock file cannot be read or written, or an entry of it does not fit its spec.

    The message names the file, the JSON pointer and what to do.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedMetric:
    """One metric over several launches of the configuration; times are in seconds."""

    median: float
    low: float
    high: float
    launches: int

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, rounded."""
        figures = {name: _rounded(getattr(self, name)) for name in ("median", "low", "high")}
        return {**figures, "launches": self.launches}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LockedMetric:
        """Return the metric of a valid document."""
        figures = {name: float(document[name]) for name in ("median", "low", "high")}
        return cls(**figures, launches=int(document["launches"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBound:
    """The result of one bound of the SLO.

    ``upper`` is true for a maximum. ``margin`` is the share of ``limit`` that was left, negative
    if the bound was missed. ``actual`` and ``margin`` are None if the metric was not reported.
    """

    label: str
    metric: str
    limit: float
    upper: bool
    actual: float | None
    margin: float | None

    def document(self) -> dict[str, Any]:
        """Return plain JSON types. Measured values are rounded, the limit is exact."""
        return {
            **asdict(self),
            "limit": float(self.limit),
            "actual": None if self.actual is None else _rounded(self.actual),
            "margin": None if self.margin is None else _rounded(self.margin),
        }

    @classmethod
    def of(cls, result: BoundResult) -> LockedBound:
        """Return the bound as a launch kept or broke it."""
        bound = result.bound
        return cls(
            label=bound.label,
            metric=bound.metrics[0],
            limit=bound.threshold,
            upper=bound.upper,
            actual=result.actual,
            margin=None if result.actual is None else -result.ratio,
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LockedBound:
        """Return the bound of a valid document."""
        figures = {
            name: None if document[name] is None else float(document[name])
            for name in ("limit", "actual", "margin")
        }
        return cls(**{**document, **figures})


@dataclass(frozen=True, slots=True, kw_only=True)
class LockEntry:
    """The best configuration of one study, with its metrics and the spec they are for.

    ``study`` is the study's label. ``metric`` is that of the objective, and one of ``metrics``.
    ``parameters`` are exact and in the order of the space. ``digests`` are of the spec's parts (see
    :func:`digests_of`), ``locked`` is a day in UTC, ``commit`` is empty without git. ``code`` has a
    digest or version of each file and of the server, empty in lock files of earlier versions.
    """

    study: str
    spec: str
    objective: str
    metric: str
    maximize: bool
    parameters: Mapping[str, Any]
    metrics: Mapping[str, LockedMetric]
    slo: tuple[LockedBound, ...]
    fingerprint: Mapping[str, str]
    digests: Mapping[str, str]
    commit: str
    locked: str
    by: str
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of the objective's metric, rounded as it is stored."""
        return _rounded(self.metrics[self.metric].median)

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, always in the same order."""
        return {
            "spec": self.spec,
            "objective": self.objective,
            "metric": self.metric,
            "maximize": self.maximize,
            "parameters": dict(self.parameters),
            "metrics": {name: self.metrics[name].document() for name in sorted(self.metrics)},
            "slo": [bound.document() for bound in self.slo],
            "fingerprint": dict(sorted(self.fingerprint.items())),
            "digests": dict(sorted(self.digests.items())),
            **({"code": dict(sorted(self.code.items()))} if self.code else {}),
            "commit": self.commit,
            "locked": self.locked,
            "by": self.by,
        }

    @classmethod
    def from_document(cls, study: str, document: Mapping[str, Any]) -> LockEntry:
        """Return the entry of a valid document."""
        metrics = {n: LockedMetric.from_document(m) for n, m in document["metrics"].items()}
        bounds = tuple(map(LockedBound.from_document, document["slo"]))
        return cls(**{**document, "study": study, "metrics": metrics, "slo": bounds})


def digests_of(key: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a digest of 12 hex digits for each part of a plan's key except the environment.

    The model and the benchmark are the ``workload``, the rest of the plan's workload is ``server``.
    """
    parts = {name: key[name] for name in ("space", "objective", "slo")}
    given: Mapping[str, Any] = key["workload"]
    parts["workload"] = {name: given[name] for name in given if name in _ASKED}
    parts["server"] = {name: given[name] for name in given if name not in _ASKED}
    return {
        part: hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        for part, value in parts.items()
    }


def refusal(old: LockEntry, new: LockEntry, *, tolerance: float) -> str | None:
    """Return the reason for which ``new`` replaces ``old`` by force only, None without one.

    ``tolerance`` is the share of the old median by which the new one may be worse.
    """
    other = foreign(old, new)
    if other:
        return f"it was locked on other hardware ({'; '.join(other)})"
    worse = _worse_by(old, new)
    if not _measure_the_same(old, new) or worse <= tolerance:
        return None
    amount = f"{100 * worse:.3g} % " if math.isfinite(worse) else ""
    return (
        f"the locked figure is better: {old.metric} was {quantity(old.metric, old.median)} and is "
        f"{quantity(new.metric, new.median)} now, {amount}worse "
        f"(up to {100 * tolerance:.3g} % is tolerated)"
    )


def foreign(old: LockEntry, new: LockEntry) -> list[str]:
    """Return the differences between the hardware of two entries."""
    return environment_changes(_hardware(old), _hardware(new))


def unchanged(old: LockEntry, new: LockEntry, tolerance: float) -> bool:
    """Return whether ``new`` has nothing new, so that ``old`` may stay.

    ``tolerance`` is the share of the old median by which the new one may differ.
    """
    return (
        point_key(old.parameters) == point_key(new.parameters)
        and old.spec == new.spec
        and old.digests == new.digests
        and old.code == new.code
        and _measure_the_same(old, new)
        and not environment_changes(old.fingerprint, new.fingerprint)
        and abs(_worse_by(old, new)) <= tolerance
    )


def _rounded(value: float) -> float:
    """Return ``value`` with six significant digits."""
    return float(f"{value:.6g}")


def _hardware(entry: LockEntry) -> Mapping[str, str]:
    return {name: entry.fingerprint[name] for name in HARDWARE if name in entry.fingerprint}


def _measure_the_same(old: LockEntry, new: LockEntry) -> bool:
    """Return whether the medians of two entries measure the same."""
    return (
        (old.objective, old.metric, old.maximize) == (new.objective, new.metric, new.maximize)
        and old.digests["workload"] == new.digests["workload"]
    )  # fmt: skip


def _worse_by(old: LockEntry, new: LockEntry) -> float:
    """Return the share of the old median by which the new one is worse, negative if better."""
    change = old.median - new.median if old.maximize else new.median - old.median
    if not old.median:
        return math.copysign(math.inf, change) if change else 0.0
    return change / abs(old.median)
