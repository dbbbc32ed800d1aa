"""A summary as lines of text, each with a heading and a tone; colours are the terminal's affair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pytest_autotune.load.level_table import level_table
from pytest_autotune.report.case_table import case_table
from pytest_autotune.report.groups import group_lines
from pytest_autotune.scoring.metrics import Metrics, split_name
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.wording import slo_table, tolerated
from pytest_autotune.study.reliability import disturbed_count
from pytest_autotune.study.repeated import Failures
from pytest_autotune.study.summary import Summary
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.printable import printable
from pytest_autotune.text.values import parameters

#: So many statistics of one thing are read in a row with everything else.
_FEW: Final = 3
Tone: TypeAlias = Literal["plain", "good", "bad", "note"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a summary; ``head`` is empty where it goes on from the line before."""

    head: str
    text: str
    tone: Tone = "plain"

    def __post_init__(self) -> None:
        """Keep it one line, whatever tests and servers said."""
        object.__setattr__(self, "text", printable(self.text))


def render(summary: Summary) -> Iterator[Line]:
    """Yield the lines of a study's summary."""
    source = summary.plan.source
    if not source.measures:
        yield Line(
            "replayed", f"from {source.description}: nothing was run or measured here", "note"
        )
    if summary.caution:
        yield Line("caution", summary.caution, "bad")
    yield from _result(summary)
    for index, line in enumerate(group_lines(summary)):
        yield Line("" if index else "hardware", line)
    yield Line("trials", summary.counts())
    if summary.repeated is None:
        yield from _failures(summary)
    yield Line("stopped", summary.why_stopped())
    for notice in summary.notices:
        yield Line("note", notice, "note")
    for index, command in enumerate(summary.commands()):
        yield Line("again" if index == 0 else "", command)


def _result(summary: Summary) -> Iterator[Line]:
    """Yield the lines on the best trial, or on why there is none."""
    best, disturbed = summary.best, disturbed_count(summary.finished)
    if best is not None:
        yield from _best(summary, best)
        if disturbed:
            yield Line("caution", disturbed, "note")
        return
    if disturbed:
        # Before it is said that nothing was good enough.
        yield Line("caution", disturbed, "bad")
    if summary.repeated is not None:
        yield from _repeated(summary, summary.repeated)
    elif summary.failed:
        yield Line("best", "none: no trial was feasible", "bad")
        tightest = summary.tightest()
        if tightest:
            yield Line("tightest", tightest, "bad")
    elif summary.finished:
        yield Line("best", "none yet")


def _repeated(summary: Summary, found: Failures) -> Iterator[Line]:
    yield Line("best", "none: every trial failed in the same way", "bad")
    yield Line("cause", found.reason, "bad")
    for line in found.trials[0].reason.splitlines()[1:2]:
        yield Line("", line, "bad")
    yield from _server(summary, found.trials[0])


def _failures(summary: Summary) -> Iterator[Line]:
    """Yield a line for each way in which trials failed."""
    groups = summary.failures
    for index, group in enumerate(groups[:_FEW]):
        numbers = [str(record.number) for record in group.trials[:_FEW]]
        more = f" and {len(group.trials) - _FEW} more" if len(group.trials) > _FEW else ""
        several = "s" * (len(group.trials) > 1)
        where = f"trial{several} {', '.join(numbers)}{more}"
        yield Line("" if index else "failures", f"{len(group.trials)} × {group.reason} ({where})")
    if len(groups) > _FEW:
        rest = sum(len(group.trials) for group in groups[_FEW:])
        yield Line("", f"{rest} × other failures")


def _server(summary: Summary, record: TrialRecord) -> Iterator[Line]:
    if summary.plan.spec.server is not None:
        from pytest_autotune.serving.command import server_command

        command = server_command(summary.plan.spec, record.params)
        if command:
            yield Line("server", command)


def _best(summary: Summary, best: TrialRecord) -> Iterator[Line]:
    earlier = " (measured with earlier code)" if best.earlier_code else ""
    yield Line("best", f"trial {best.number}: {parameters(best.params)}{earlier}", "good")
    penalty = f", penalized ×{number(1 + best.penalty)}" if best.penalty else ""
    yield Line("", f"{best.judgement.answer} ({summary.plan.objective.name}{penalty})")
    if best.judgement.cases is not None:
        yield from _labelled("cases", case_table(best.judgement.cases))
    measured = [
        (", ".join(filter(None, (case.name, level.label))), level.metrics, level.failure, "")
        for case in (best.measurement.outside, *best.measurement.cases)
        for level in case.levels
        if "request_throughput" in level.metrics
    ]
    if measured:
        # Of a load test there are a hundred metrics: a table says more.
        yield from _labelled("levels", level_table(measured))
    else:
        # Of other metrics than the objective's the cases are not shown, nor how they combine.
        shown = best.metrics if best.judgement.cases is None else best.measurement.metrics
        others = {name: value for name, value in shown.items() if name != best.metric}
        yield from _labelled("metrics", "\n".join(metric_lines(others)))
    yield from _server(summary, best)
    if best.dropped:
        levels = ", ".join(best.dropped)
        yield Line("dropped", f"levels that break the SLO: {levels}", "note")
    for note in best.notes:
        yield Line("note", note, "note")
    yield from _slo(best)


def _slo(best: TrialRecord) -> Iterator[Line]:
    if best.bounds:
        yield from _labelled("slo", slo_table(best.bounds))
    for missed in tolerated(best.bounds):
        text = f"the best configuration missed {missed}; fail_ratio: 0 makes the limit strict"
        yield Line("note", text, "note")


def _labelled(head: str, text: str) -> Iterator[Line]:
    """Yield the lines of a text, of which the first has a heading."""
    for index, line in enumerate(text.splitlines()):
        yield Line(head if index == 0 else "", line)


def metric_lines(metrics: Metrics) -> Iterator[str]:
    """Yield metrics with their values, many statistics of one thing on a line of their own."""
    things: dict[str, dict[str, str]] = {}
    metrics = {printable(name): value for name, value in metrics.items()}
    for name in metrics:
        statistic, thing = split_name(name)
        if statistic:
            things.setdefault(thing, {})[name] = statistic
    many = {thing: names for thing, names in things.items() if len(names) > _FEW}
    for thing, names in many.items():
        shown = (f"{statistic} {quantity(n, metrics[n])}" for n, statistic in names.items())
        yield f"{thing}: {', '.join(shown)}"
    rest = [
        f"{name} {quantity(name, value)}"
        for name, value in metrics.items()
        if split_name(name)[1] not in many or not split_name(name)[0]
    ]
    if rest:
        yield ", ".join(rest)
