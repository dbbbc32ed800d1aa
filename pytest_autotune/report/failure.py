"""The report of a trial that broke its SLO, as text."""

from __future__ import annotations

from pytest_autotune.scoring.levels import failed_requests
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.wording import slo_table
from pytest_autotune.study.reliability import disturbed_line
from pytest_autotune.study.trial_line import broken_bounds
from pytest_autotune.text.printable import printable


def infeasible_report(record: TrialRecord, table: str, command: str) -> str:
    """Return the reason, the SLO ``table``, what disturbed the trial, and its server's command.

    Without a ``table`` it is that of the record. The command is shown where requests failed.
    """
    reason = printable(f"trial {record.number} is {broken_bounds(record)}")
    lines = [reason, table or slo_table(record.bounds)]
    disturbed = disturbed_line(record)
    if disturbed:
        lines.append(printable(disturbed))
    if command and failed_requests(record.levels):
        lines.append(printable(f"server command: {command}"))
    return "\n".join(lines)
