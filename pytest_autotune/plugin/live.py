"""Live lines of finished trials, which travel with a report to the process with the terminal."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.standing import Best, Standings, standing
from pytest_autotune.study.trial_line import trial_line
from pytest_autotune.text.values import parameters

#: Attributes of a report, which xdist takes along.
LINE: Final = "autotune_line"
_STUDY: Final = "autotune_study"
_NUMBER: Final = "autotune_number"
_BEST: Final = "autotune_best"


def attach(
    report: pytest.TestReport, study: str, record: TrialRecord, incumbent: TrialRecord | None
) -> None:
    """Attach the line of a trial that ended to the report that decided it."""
    best = Best.of(incumbent)
    vars(report).update(
        {
            LINE: trial_line(record),
            _STUDY: study,
            _NUMBER: record.number,
            _BEST: None if best is None else best.document(),
        }
    )


def detach(report: pytest.TestReport) -> None:
    """Remove all that an earlier attempt with the same report had attached."""
    for name in [name for name in vars(report) if name.startswith("autotune_")]:
        delattr(report, name)


def attach_look(report: pytest.TestReport, record: TrialRecord) -> None:
    """Attach the line of a look."""
    text = trial_line(record)
    if record.outcome is Outcome.FEASIBLE and record.metric is None:
        text = f"trial {record.number} [{parameters(record.params)}] passed"
    vars(report)[LINE] = f"look at {text}; not stored"


def line_of(report: pytest.TestReport, standings: Standings) -> str | None:
    """Return the line that came with a report, None where none did.

    A report of another outcome is of an attempt that a plugin repeats.
    """
    line = getattr(report, LINE, None)
    if line is None or report.outcome not in {"passed", "failed", "skipped"}:
        return None
    if not hasattr(report, _STUDY):
        return str(line)  # A look, which is compared with nothing.
    known = getattr(report, _BEST)
    best = standings.latest(getattr(report, _STUDY), None if known is None else Best(**known))
    return f"{line}; {standing(getattr(report, _NUMBER), best)}"
