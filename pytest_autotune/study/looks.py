"""Looks: trials that are run to be seen, and never stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from pytest_autotune.scoring.judgement import (
    Ending,
    Judgement,
    Measurement,
    Outcome,
    Question,
    judge,
)
from pytest_autotune.scoring.records import TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A trial that is run to be seen: tests of it were left out, or it is finished already.

    ``left_out`` are the names of the tests that do not run. ``proposed`` is True where no trial
    had the number yet, and the search proposed the parameters.
    """

    record: TrialRecord
    left_out: Sequence[str] = ()
    proposed: bool = False

    def judge(self, measurement: Measurement, question: Question) -> Judgement:
        """Return the judgement on what the look measured.

        Where tests were left out, a metric that is not there is not missing.
        """
        if not self.left_out or measurement.ending is not Ending.COMPLETE:
            return judge(measurement, question)
        judgement = judge(replace(measurement, ending=Ending.CUT_SHORT), question)
        if judgement.compliance.feasible:
            return replace(judgement, outcome=Outcome.FEASIBLE)
        return judgement

    def document(self) -> Mapping[str, Any]:
        """Return what the summary needs of it as plain types."""
        return {
            "number": self.record.number,
            "left_out": list(self.left_out),
            "proposed": self.proposed,
        }


def look_notes(looks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield sentences on the looks of a run, given by their documents."""
    known = list(looks)
    partial: dict[tuple[str, ...], list[int]] = {}
    for look in known:
        partial.setdefault(tuple(look["left_out"]), []).append(look["number"])
    for tests, numbers in partial.items():
        if tests:
            why = f"the run left out {', '.join(tests)}"
        elif len(numbers) == 1:
            why = "it was finished before, and that result stands"
        else:
            why = "they were finished before, and those results stand"
        count = "a look" if len(numbers) == 1 else f"{len(numbers)} looks"
        yield f"{count} at {_trials(numbers)}, not stored: {why}"
    proposed = [look["number"] for look in known if look["proposed"]]
    if proposed:
        yield (
            f"{_trials(proposed)} did not exist yet: the parameters are what the search would "
            "have tried"
        )


def _trials(numbers: Iterable[int]) -> str:
    """Return ``trial 7``, or ``trials 0-3, 7``."""
    ordered = sorted(set(numbers))
    runs = [
        [number for _, number in group]
        for _, group in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])
    ]
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"trial{'s' * (len(ordered) > 1)} {', '.join(shown)}"
