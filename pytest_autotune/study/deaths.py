"""Trials whose processes died: they are run again, but not for ever."""

from __future__ import annotations

from typing import Final

from pytest_autotune.errors import ProcessDiedError
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.text.values import parameters

#: A trial that takes its process down this often is not tried again.
MAX_ATTEMPTS: Final = 3


def died_too_often(record: TrialRecord) -> ProcessDiedError | None:
    """Return why a trial that was just taken fails before it runs, None if it may run."""
    deaths = record.owner.attempt - 1
    if deaths < MAX_ATTEMPTS:
        return None
    configuration = parameters(record.params)
    return ProcessDiedError(f"the process running it died {deaths} times, with {configuration}")


def run_again(record: TrialRecord) -> str:
    """Return the announcement of a trial whose last process died."""
    return (
        f"autotune: trial {record.number} ({parameters(record.params)}) runs again, as its process "
        f"died: attempt {record.owner.attempt} of {MAX_ATTEMPTS}"
    )
