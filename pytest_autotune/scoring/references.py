"""The first complete trial of a study, with which others are compared case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_autotune.scoring.cases import Reference
from pytest_autotune.scoring.judgement import Ending, Question, judge
from pytest_autotune.scoring.records import TrialRecord, effective


def referenced(question: Question, records: Sequence[TrialRecord]) -> Question:
    """Return ``question`` with the first complete trial of a study, if that matters."""
    if question.cases is None:
        return question
    alone = replace(question, reference=None)
    for record in sorted(effective(records), key=lambda record: record.number):
        if record.measurement.cases and record.measurement.ending is Ending.COMPLETE:
            cases = judge(record.measurement, alone).cases
            if cases is not None:
                found = Reference(trial=record.number, values=cases.values)
                return replace(question, reference=found)
    return alone


def settled(records: Sequence[TrialRecord], question: Question) -> list[TrialRecord]:
    """Return the trials of a study, judged with its first complete trial as the reference."""
    asked = referenced(question, records)
    return [
        replace(record, judgement=judge(record.measurement, asked))
        if record.finished
        and record.measurement.cases
        and record.judgement.reference != asked.reference
        else record
        for record in records
    ]
