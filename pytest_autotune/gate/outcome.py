"""The outcome of the gate for one study, which a report carries from a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from pytest_autotune.gate.compare.comparison import Comparison, GatedMetric, MetricResult, Verdict

#: ``skipped``: there was nothing to compare with. ``failed``: it did not run.
GateJudgement: TypeAlias = Literal[
    "passed", "improved", "regressed", "inconclusive", "skipped", "failed"
]
Mode: TypeAlias = Literal["revision", "baseline", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOutcome:
    """The outcome of the gate for one study.

    ``against`` describes the revision or the baseline. ``parameters`` are pinned now, ``changed``
    are those of the old revision if they differ. ``pairs`` is the number of launches of each side.
    ``remaining`` estimates the further seconds that would decide. ``reason`` explains a failure or
    a missing verdict; ``details`` are the output of a launch.
    """

    study: str
    judgement: GateJudgement
    mode: Mode
    against: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[MetricResult] = ()
    pairs: int = 0
    seconds: float = 0.0
    remaining: float | None = None
    reason: str = ""
    details: str = ""
    notes: Sequence[str] = ()
    tolerance: float = 0.0

    @classmethod
    def of(cls, comparison: Comparison, **known: Any) -> GateOutcome:
        """Return the outcome of a comparison, with further fields that are ``known``."""
        reasons = (*(result.reason for result in comparison.results), comparison.stopped)
        notes = (*known.pop("notes", ()), *comparison.notes)
        return cls(
            judgement=comparison.verdict.value,
            results=tuple(comparison.results),
            pairs=comparison.pairs,
            seconds=comparison.seconds,
            remaining=comparison.remaining_seconds,
            reason="; ".join(dict.fromkeys(filter(None, reasons))),
            notes=notes,
            **known,
        )

    def with_notes(self, notes: Sequence[str]) -> GateOutcome:
        """Return the outcome with further notes."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    @property
    def fails(self) -> bool:
        """True if it makes the run fail, strict or not."""
        return self.judgement in {"regressed", "failed"}

    @property
    def undecided(self) -> bool:
        """True if it makes a strict run fail."""
        return self.judgement in {"inconclusive", "skipped"}

    def document(self) -> dict[str, Any]:
        """Return plain types, as a test report can carry them."""
        return asdict(self) | {
            "results": [_result_document(result) for result in self.results],
            "notes": list(self.notes),
            "parameters": dict(self.parameters),
            "changed": dict(self.changed),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> GateOutcome:
        """Return the outcome of a :meth:`document`."""
        results = tuple(_result(entry) for entry in document["results"])
        return cls(**{**document, "results": results})


def _result_document(result: MetricResult) -> dict[str, Any]:
    # JSON has no infinity.
    return asdict(result) | {
        "verdict": result.verdict.value,
        "high": result.high if math.isfinite(result.high) else None,
        "ratio": result.ratio if math.isfinite(result.ratio) else None,
    }


def _result(document: Mapping[str, Any]) -> MetricResult:
    high, ratio = document["high"], document["ratio"]
    return MetricResult(
        **{
            **document,
            "metric": GatedMetric(**document["metric"]),
            "verdict": Verdict(document["verdict"]),
            "high": math.inf if high is None else high,
            "ratio": math.nan if ratio is None else ratio,
        }
    )
