"""The history of the gate as text: a table for each series, and its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Final

from pytest_autotune.gate.history.changepoints import ChangePoint, find, smallest
from pytest_autotune.gate.history.results import GateHistory, GateResult, series
from pytest_autotune.study.environment import environment_changes, machine_name
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.tables import table
from pytest_autotune.text.values import parameters

#: Results that a table shows, and that are searched for changes: a second's work at most.
_SHOWN: Final = 20
_SEARCHED: Final = 200
_ALPHA: Final = 0.01
_LEAST: Final = 3
_COMMIT_LETTERS: Final = 7


def render(history: GateHistory) -> list[str]:
    """Return lines of text: a table and the changes of every series."""
    lines: list[str] = []
    # The latest series of a metric with the same parameters, in another environment.
    previous: dict[tuple[str, ...], Sequence[GateResult]] = {}
    for (study, metric, point, _), results in series(history.results).items():
        lines += [*_series_lines(metric, results, previous.get((study, metric, point))), ""]
        previous[study, metric, point] = results
    lines += _without_values(history.results)
    lines += history.problems
    if not lines:
        return ["the gate has no results yet"]
    return lines if lines[-1] else lines[:-1]


def _series_lines(
    metric: str, results: Sequence[GateResult], previous: Sequence[GateResult] | None
) -> Iterator[str]:
    yield f"{results[0].study}: {metric} with {parameters(results[0].parameters)}"
    yield f"on {_short(results[0].fingerprint)}"
    if previous is not None:
        yield _environment_change(previous, results)
    shown = results[-_SHOWN:]
    if len(shown) < len(results):
        yield f"the latest {len(shown)} of {len(results)} results:"
    rows = [
        (
            _date(result),
            _commit(result),
            quantity(metric, result.values[metric]),
            f"×{result.ratios[metric]:.3f}" if metric in result.ratios else "-",
            result.verdict,
        )
        for result in shown
    ]
    header = ("time (UTC)", "commit", metric, "ratio", "verdict")
    yield from table(header, rows).splitlines()
    yield from _change_lines(metric, results[-_SEARCHED:])


def _change_lines(metric: str, searched: Sequence[GateResult]) -> Iterator[str]:
    values = [result.values[metric] for result in searched]
    needed = smallest(_ALPHA, _LEAST)
    if len(values) < needed:
        yield f"{_results(len(values))}: at least {needed} are needed to tell a change from chance"
        return
    unfit = sum(value <= 0 for value in values)
    if unfit:
        yield f"no changes were looked for: {unfit} of {len(values)} values are not positive"
        return
    points = find(values, alpha=_ALPHA, least=_LEAST)
    for point in points:
        yield _change_text(metric, point, searched[point.index])
    if not points:
        yield (
            f"no change in {_results(len(values))} (p > {_ALPHA}); "
            f"one is seen when {_LEAST} or more results are past it"
        )


def _change_text(metric: str, point: ChangePoint, first: GateResult) -> str:
    percent = 100 * abs(point.ratio - 1)
    commit = f", commit {_commit(first)}" if first.commit else ""
    what = f"{_date(first)}{commit} (p = {point.p_value:.1g})"
    if round(percent, 1) == 0:
        return f"{metric} varies more or less than before, around the same median, since {what}"
    verb = "rose" if point.ratio > 1 else "fell"
    levels = f"from {quantity(metric, point.before)} to {quantity(metric, point.after)}"
    return f"{metric} {verb} by {percent:.1f} %, {levels}, at {what}"


def _environment_change(old: Sequence[GateResult], new: Sequence[GateResult]) -> str:
    last, first = old[-1], new[0]
    changes = "; ".join(environment_changes(last.fingerprint, first.fingerprint))
    if last.time <= first.time:
        return f"the environment changed between {_date(last)} and {_date(first)}: {changes}"
    return f"another environment than the one in use since {_date(old[0])}: {changes}"


def _short(fingerprint: Mapping[str, str]) -> str:
    """Return a short name of a machine: its GPUs, else its processor, and its Python."""
    machine = machine_name(fingerprint)
    parts = [part for part in (machine, fingerprint.get("python", "")) if part]
    return ", ".join(parts or fingerprint.values()) or "an unknown machine"


def _without_values(results: Sequence[GateResult]) -> Iterator[str]:
    """Yield lines on results that are in no series, as they have no value."""
    empty: dict[tuple[str, str], list[GateResult]] = {}
    for result in results:
        if not result.values:
            empty.setdefault((result.study, result.verdict), []).append(result)
    for (name, verdict), group in empty.items():
        latest = max(group, key=lambda result: result.time)
        commit = f", commit {_commit(latest)}" if latest.commit else ""
        count = _results(len(group))
        yield f"{name}: {count} without a value ({verdict}), the latest at {_date(latest)}{commit}"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _date(result: GateResult) -> str:
    return datetime.fromtimestamp(result.time, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _commit(result: GateResult) -> str:
    """Return the short id of a commit, with a star if files differed from it."""
    short = result.commit[:_COMMIT_LETTERS] or "-"
    return f"{short}*" if result.dirty else short
