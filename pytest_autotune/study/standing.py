"""The best trial so far, as the lines of finished trials tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_autotune.scoring.records import TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best trial so far: its number, its score (lower is better), and its value as text."""

    number: int
    score: float
    text: str

    @classmethod
    def of(cls, record: TrialRecord | None) -> Best | None:
        """Return the place of the incumbent, None where there is none."""
        if record is None or record.score is None:
            return None
        return cls(number=record.number, score=record.score, text=record.judgement.amount)

    def document(self) -> Mapping[str, Any]:
        """Return it as plain types, for another process."""
        return asdict(self)


def standing(number: int, best: Best | None) -> str:
    """Return how the trial ``number`` compares with the best so far."""
    if best is None:
        return "no feasible trial yet"
    if best.number == number:
        return "best so far"
    return f"best so far {best.text} (trial {best.number})"


class Standings:
    """The best trial of each study, as the process with the terminal knows it.

    Lines arrive from several workers and out of order: what one of them knew may be old.
    """

    def __init__(self) -> None:
        self._best: dict[str, Best] = {}

    def latest(self, study: str, best: Best | None) -> Best | None:
        """Take over what a process knew, and return the best that anybody knew of."""
        known = self._best.get(study)
        if best is not None and (known is None or best.score < known.score):
            self._best[study] = best
        return self._best.get(study)
