"""The end of a trial in one line of text."""

from __future__ import annotations

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.levels import failed_requests
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import BoundResult
from pytest_autotune.scoring.wording import limits, penalized_by, unjudged
from pytest_autotune.study.reliability import disturbed_line
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.values import parameters


def trial_line(record: TrialRecord) -> str:
    """Return the live line of a finished trial: number, parameters, score."""
    what = {
        Outcome.FEASIBLE: record.judgement.answer,
        Outcome.INFEASIBLE: broken_bounds(record),
        Outcome.FAILED: f"failed: {first_line(record.reason)}",
        Outcome.PRUNED: f"pruned: {first_line(record.reason)}",
        Outcome.SKIPPED: f"skipped: {first_line(record.reason)}",
    }.get(record.outcome, record.outcome.value)
    if record.outcome is Outcome.FEASIBLE and record.penalty > 0:
        what += f" ({penalized_by(record.penalty, record.bounds)})"
    if record.dropped:
        what += f" (levels {', '.join(record.dropped)} dropped)"
    disturbed = disturbed_line(record)
    if disturbed:
        what += f" ({disturbed})"
    return f"trial {record.number} [{parameters(record.params)}] {what}"


def broken_bounds(record: TrialRecord) -> str:
    """Return ``infeasible: …`` with the bound that was broken by most.

    Requests that failed come first where they explain it.
    """
    broken = [result for result in record.bounds if result.infeasible]
    if not broken:
        return "infeasible"
    result = max(broken, key=lambda result: result.ratio)
    failed = failed_requests(record.measurement.every_level, mostly=not _counts_failures(result))
    if result.actual is None:
        what = unjudged(result, None if failed else record.metrics)
    else:
        actual = quantity(result.bound.metrics[0], result.actual)
        where = "" if result.case is None else f" in case {result.case}"
        what = f"{result.bound.label} {actual}{where}, limit {limits(result.bound)}"
    return f"infeasible: {failed}; {what}" if failed else f"infeasible: {what}"


def shortfall(record: TrialRecord) -> str:
    """Return the bound that was broken by most in a few words: ``ttft p99 312 ms > 200 ms``."""
    broken = [result for result in record.bounds if result.infeasible]
    if not broken:
        return ""
    result = max(broken, key=lambda result: result.ratio)
    failed = failed_requests(record.levels, mostly=not _counts_failures(result))
    if failed:
        return failed
    if result.actual is None:
        return unjudged(result)
    bound, name = result.bound, result.bound.metrics[0]
    sign = ">" if bound.upper else "<"
    return f"{bound.label} {quantity(name, result.actual)} {sign} {quantity(name, bound.threshold)}"


def _counts_failures(result: BoundResult) -> bool:
    return result.bound.metrics[0] in {"error_rate", "success_rate", "goodput_ratio"}


def first_line(text: str) -> str:
    """Return the first line of a reason, or that there is none."""
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
