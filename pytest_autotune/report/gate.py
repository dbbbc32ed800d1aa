"""The outcome of the gate as text: a headline, and the lines below it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_autotune.gate.compare.comparison import MetricResult, Verdict
from pytest_autotune.gate.outcome import GateOutcome
from pytest_autotune.report.render import Line, Tone
from pytest_autotune.text.durations import duration
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.values import parameters

_TONES: dict[str, Tone] = {
    "passed": "good",
    "improved": "good",
    "regressed": "bad",
    "failed": "bad",
    "inconclusive": "note",
    "skipped": "note",
}


def percent(share: float) -> str:
    """Return a share as people write it."""
    return f"{100 * share:.3g} %"


def ratio_text(result: MetricResult) -> str:
    """Return new ÷ old with its interval, as in ``1.101 (90 %: 1.093 to 1.108)``."""
    if not math.isfinite(result.ratio):
        return "no ratio"
    low, ratio, high = _shown_ratio(result)
    text = f"×{ratio:.3f}"
    sure = f"{percent(result.confidence)}: " if result.confidence else "launches: "
    if low > 0 and math.isfinite(high):
        return f"{text} ({sure}{low:.3f} to {high:.3f})"
    if low > 0:
        return f"{text} ({sure}above {low:.3f})"
    return f"{text} ({sure}below {high:.3f})" if math.isfinite(high) else text


def _shown_ratio(result: MetricResult) -> tuple[float, float, float]:
    """Return new ÷ old. A result has the factor by which it got worse."""
    low, ratio, high = result.low, result.ratio, result.high
    if not result.metric.maximize:
        return low, ratio, high
    return 1 / high, 1 / ratio, 1 / low if low > 0 else math.inf


def verdict_text(result: MetricResult, tolerance: float) -> str:
    """Return the verdict on one metric in words."""
    match result.verdict:
        case Verdict.REGRESSED:
            return f"worse by more than {percent(tolerance)}"
        case Verdict.IMPROVED:
            return f"better by more than {percent(tolerance)}"
        case Verdict.PASSED:
            return f"not worse by {percent(tolerance)}"
    if not math.isfinite(result.ratio):
        return "undecided"
    seems = result.ratio - 1
    word = "worse" if seems > 0 else "better"
    return f"undecided: seems {word} by {percent(abs(seems))}, tolerated are {percent(tolerance)}"


def result_text(result: MetricResult, tolerance: float) -> str:
    """Return one line on a metric: before, after, ratio, verdict."""
    name = result.metric.name
    change = f"{quantity(name, result.old)} → {quantity(name, result.new)}"
    return f"{name} {change}, {ratio_text(result)}: {verdict_text(result, tolerance)}"


def headline(outcome: GateOutcome) -> str:
    """Return the outcome in one line, which begins a failing test's message."""
    if outcome.results:
        worst = min(outcome.results, key=lambda r: r.verdict.value != outcome.judgement)
        text = f"{outcome.judgement}: {result_text(worst, outcome.tolerance)}"
    else:
        text = f"{outcome.judgement}: {outcome.reason}"
    return text


def gate_lines(outcome: GateOutcome) -> Iterator[Line]:
    """Yield the lines of a study under the gate."""
    tone = _TONES[outcome.judgement]
    yield Line("gate", _answer(outcome), tone)
    for result in outcome.results:
        yield Line("", result_text(result, outcome.tolerance), _TONES[result.verdict.value])
    yield Line("pinned", parameters(outcome.parameters))
    if outcome.changed:
        yield Line("", f"in the old revision: {parameters(outcome.changed)}")
    if outcome.against:
        launches = (
            f", {outcome.pairs} {'pairs of ' if outcome.mode == 'revision' else ''}launches in "
            f"{duration(outcome.seconds)}"
            if outcome.pairs
            else ""
        )
        yield Line("against", f"{outcome.against}{launches}")
    if outcome.reason and outcome.results:
        yield Line("because", outcome.reason, tone)
    if outcome.remaining is not None and outcome.judgement == "inconclusive":
        yield Line(
            "",
            f"about {duration(outcome.remaining)} more would probably decide it "
            "(gate.max_launches)",
            tone,
        )
    for note in outcome.notes:
        yield Line("note", note, "note")
    if outcome.details:
        for index, line in enumerate(outcome.details.splitlines()):
            yield Line("said" if index == 0 else "", line)
    if outcome.judgement == "improved":
        yield Line("hint", "to pin what is there now: pytest --autotune --autotune-lock")


def _answer(outcome: GateOutcome) -> str:
    answer = outcome.judgement.upper() if outcome.fails else outcome.judgement
    return answer if outcome.results else f"{answer}: {outcome.reason}"
