"""A summary as lines of text, each with a heading and a tone; colours are the terminal's affair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_autotune.load.level_table import LEVEL_HEADER, level_row
from pytest_autotune.report.metric_lines import metric_lines
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.wording import slo_table
from pytest_autotune.study.summary import Summary
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.tables import table
from pytest_autotune.text.values import parameters

Tone: TypeAlias = Literal["plain", "good", "bad", "note"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a summary; ``head`` is empty where it goes on from the line before."""

    head: str
    text: str
    tone: Tone = "plain"


def render(summary: Summary) -> Iterator[Line]:
    """Yield the lines of a study's summary."""
    source = summary.plan.source
    if not source.measures:
        yield Line(
            "replayed", f"from {source.description}: nothing was run or measured here", "note"
        )
    best = summary.best
    if best is not None:
        yield from _best(summary, best)
    elif summary.failed:
        yield Line("best", "none: no trial was feasible", "bad")
        tightest = summary.tightest()
        if tightest:
            yield Line("tightest", tightest, "bad")
    elif summary.finished:
        yield Line("best", "none yet")
    yield Line("trials", summary.counts())
    yield Line("stopped", summary.why_stopped())
    for notice in summary.notices:
        yield Line("note", notice, "note")
    for index, command in enumerate(summary.commands()):
        yield Line("again" if index == 0 else "", command)


def _best(summary: Summary, best: TrialRecord) -> Iterator[Line]:
    yield Line("best", f"trial {best.number}: {parameters(best.params)}", "good")
    penalty = f", penalized ×{number(1 + best.penalty)}" if best.penalty else ""
    value = quantity(best.metric, best.value)
    yield Line("", f"{best.metric} {value} ({summary.plan.objective.name}{penalty})")
    others = list(metric_lines({n: v for n, v in best.metrics.items() if n != best.metric}))
    measured = [level for level in best.levels if "request_throughput" in level.metrics]
    if measured:
        # Of a load test there are a hundred metrics: a table says more.
        rows = [level_row(level.label, level.metrics) for level in measured]
        for index, line in enumerate(table(LEVEL_HEADER, rows).splitlines()):
            yield Line("levels" if index == 0 else "", line)
    else:
        for index, line in enumerate(others):
            yield Line("metrics" if index == 0 else "", line)
    if best.dropped:
        levels = ", ".join(best.dropped)
        yield Line("dropped", f"levels that break the SLO: {levels}", "note")
    for note in best.notes:
        yield Line("note", note, "note")
    if best.bounds:
        for index, line in enumerate(slo_table(best.bounds).splitlines()):
            yield Line("slo" if index == 0 else "", line)
