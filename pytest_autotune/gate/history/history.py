"""What the gate found so far: a log of one line per result, and what it says over time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from pytest_autotune.gate.history.changepoints import ChangePoint, find, smallest
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.tables import table
from pytest_autotune.text.values import canonical
from pytest_autotune.text.values import parameters as parameters_text

LOG: Final = "gate-history.jsonl"
#: Verdicts on what was not the usual speed, or no speed at all.
_UNUSUAL: Final = frozenset({"regressed", "failed"})
#: Results that a table shows, and that are searched for changes: a second's work at most.
_SHOWN: Final = 20
_SEARCHED: Final = 200
_ALPHA: Final = 0.01
_LEAST: Final = 3
_COMMIT_LETTERS: Final = 7
#: The end of the year 9999, past which there are no dates.
_LAST_TIME: Final = 253_402_300_800
_NO_GPU: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What the gate found of one study, once.

    ``time`` is in seconds since the epoch. ``verdict`` is one of passed, improved, regressed,
    inconclusive, skipped and failed, ``mode`` one of revision, baseline and none. ``commit`` is
    empty where there is no git, and ``dirty`` tells that files differed from it. ``against`` is
    the revision that was compared with, if any. ``values`` are the medians over ``launches`` of
    each metric, in its unit; ``ratios`` are by how many times each got worse, 1.0 where equal.
    """

    time: float
    study: str
    verdict: str
    mode: str
    commit: str
    dirty: bool
    against: str
    parameters: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    values: Mapping[str, float]
    ratios: Mapping[str, float]
    launches: int

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, without what is no finite number among values and ratios."""
        return {name: getattr(self, name) for name in _CHECKS} | {
            "parameters": dict(self.parameters),
            "fingerprint": dict(self.fingerprint),
            "values": _finite(self.values),
            "ratios": _finite(self.ratios),
        }

    @classmethod
    def from_document(cls, document: object) -> GateResult:
        """Read a result back; raise ValueError where something is missing or of another type.

        What else there is, as a later version may have written, is left out.
        """
        if not isinstance(document, Mapping):
            msg = "it is no JSON object"
            raise ValueError(msg)  # noqa: TRY004 - what a file holds is no programming error
        missing = [name for name in _CHECKS if name not in document]
        if missing:
            msg = f"it lacks {', '.join(missing)}"
            raise ValueError(msg)
        wrong = [name for name, is_right in _CHECKS.items() if not is_right(document[name])]
        if wrong:
            msg = f"it has a wrong value for {', '.join(wrong)}"
            raise ValueError(msg)
        return cls(**{name: document[name] for name in _CHECKS})


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # A whole number may be too large for a float.
    with suppress(OverflowError):
        return math.isfinite(value)
    return False


def _is_time(value: object) -> bool:
    return _is_number(value) and 0 <= value < _LAST_TIME  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _has_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


def _has_numbers(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


#: The fields of a result, and what can be read as one.
_CHECKS: Final = {
    "time": _is_time,
    "study": _is_text,
    "verdict": _is_text,
    "mode": _is_text,
    "commit": _is_text,
    "dirty": lambda value: isinstance(value, bool),
    "against": _is_text,
    "parameters": _is_mapping,
    "fingerprint": _has_texts,
    "values": _has_numbers,
    "ratios": _has_numbers,
    "launches": _is_count,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Results in the order of the log, and one sentence per line that could not be read."""

    results: tuple[GateResult, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Comparable results that have a value of one metric, at least one, by time."""

    study: str
    metric: str
    parameters: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    results: tuple[GateResult, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The metric's values, in its unit."""
        return tuple(result.values[self.metric] for result in self.results)


def append(directory: Path, result: GateResult) -> None:
    """Add a result to the log in ``directory``; raise OSError where that is not possible.

    Any number of processes of one machine may do so at once. A line that a killed process left
    unfinished stays one line. Raises TypeError where a parameter is no JSON value.
    """
    line = json.dumps(result.document(), separators=(",", ":")).encode() + b"\n"
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # Should the last line only just be being written, this makes an empty one.
            line = b"\n" + line
        written = os.write(descriptor, line)
    finally:
        os.close(descriptor)
    if written < len(line):
        msg = f"only {written} of {len(line)} bytes could be added to {directory / LOG}"
        raise OSError(msg)


def read(directory: Path) -> History:
    """Read the log in ``directory``, which need not exist.

    What a line holds raises nothing; OSError is raised where the file cannot be read.
    """
    path = directory / LOG
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return History()
    results: list[GateResult] = []
    problems: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            results.append(GateResult.from_document(_parsed(line)))
        except ValueError as error:
            problems.append(f"{path}, line {number} was left out: {error}")
    return History(results=tuple(results), problems=tuple(problems))


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        msg = "it is no JSON"
        raise ValueError(msg) from None


def series(results: Sequence[GateResult], study: str | None = None) -> list[Series]:
    """Group results by study, metric, parameters and environment, as each first appears.

    A result without a value of a metric, as one that failed, is in none of that metric's groups.
    """
    groups: dict[tuple[str, str, str, str], list[GateResult]] = {}
    for result in results:
        if study is not None and result.study != study:
            continue
        setting = canonical(dict(result.parameters)), canonical(dict(result.fingerprint))
        for metric in _finite(result.values):
            groups.setdefault((result.study, metric, *setting), []).append(result)
    return [
        Series(
            study=name,
            metric=metric,
            parameters=group[0].parameters,
            fingerprint=group[0].fingerprint,
            results=tuple(sorted(group, key=lambda result: result.time)),
        )
        for (name, metric, *_), group in groups.items()
    ]


def session_spread(
    results: Sequence[GateResult],
    *,
    study: str,
    metric: str,
    parameters: Mapping[str, Any],
    fingerprint: Mapping[str, str],
) -> Sequence[float]:
    """Return what comparable earlier sessions measured, by time, in the metric's unit.

    Those are comparable that had the same parameters and environment, and were found neither to
    have regressed nor to have failed.
    """
    setting = canonical(dict(parameters)), canonical(dict(fingerprint))
    usual = [result for result in results if result.verdict not in _UNUSUAL]
    for group in series(usual, study):
        found = canonical(dict(group.parameters)), canonical(dict(group.fingerprint))
        if group.metric == metric and found == setting:
            return group.values
    return ()


def render(history: History, study: str | None = None) -> list[str]:
    """Return lines of text on every series, of one study or all: a table and what changed."""
    lines: list[str] = []
    earlier: list[Series] = []
    for each in series(history.results, study):
        lines += [*_series_lines(each, _previous(each, earlier)), ""]
        earlier.append(each)
    lines += _without_values(history.results, study)
    lines += history.problems
    if not lines:
        return [_nothing(history.results, study)]
    return lines if lines[-1] else lines[:-1]


def _series_lines(each: Series, previous: Series | None) -> Iterator[str]:
    yield f"{each.study}: {each.metric} with {parameters_text(each.parameters)}"
    yield f"on {_short(each.fingerprint)}"
    if previous is not None:
        yield _environment_change(previous, each)
    shown = each.results[-_SHOWN:]
    if len(shown) < len(each.results):
        yield f"the latest {len(shown)} of {len(each.results)} results:"
    rows = [
        (
            _date(result),
            _commit(result),
            quantity(each.metric, result.values[each.metric]),
            f"×{result.ratios[each.metric]:.3f}" if each.metric in result.ratios else "-",
            result.verdict,
        )
        for result in shown
    ]
    header = ("time (UTC)", "commit", each.metric, "ratio", "verdict")
    yield from table(header, rows).splitlines()
    yield from _change_lines(each)


def _change_lines(each: Series) -> Iterator[str]:
    searched = each.results[-_SEARCHED:]
    values = each.values[-_SEARCHED:]
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
        yield _change_text(each.metric, point, searched[point.index])
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


def _previous(each: Series, earlier: Sequence[Series]) -> Series | None:
    """Return the latest series of the same thing in another environment, if there is one."""
    key = each.study, each.metric, canonical(dict(each.parameters))
    return next(
        (
            other
            for other in reversed(earlier)
            if (other.study, other.metric, canonical(dict(other.parameters))) == key
        ),
        None,
    )


def _environment_change(old: Series, new: Series) -> str:
    changes = "; ".join(_differences(old.fingerprint, new.fingerprint))
    last, first = old.results[-1], new.results[0]
    if last.time <= first.time:
        return f"the environment changed between {_date(last)} and {_date(first)}: {changes}"
    return f"another environment than the one in use since {_date(old.results[0])}: {changes}"


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Yield what differs, of lists only the items that do."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, "unknown"), new.get(name, "unknown")
        if before == after:
            continue
        was, now = before.split(", "), after.split(", ")
        gone = ", ".join(item for item in was if item not in now)
        come = ", ".join(item for item in now if item not in was)
        # The order alone may differ, or how often something is there.
        if not gone and not come:
            gone, come = before, after
        yield f"{name} {gone or 'nothing'} → {come or 'nothing'}"


def _short(fingerprint: Mapping[str, str]) -> str:
    """Return what people call a machine by: its GPUs, else its processor, and the software."""
    gpus = fingerprint.get("gpus", _NO_GPU)
    cpu = fingerprint.get("cpu", "")
    if cpu and "cpus" in fingerprint:
        cpu = f"{cpu} ({fingerprint['cpus']} CPUs)"
    machine = cpu if gpus == _NO_GPU else gpus
    parts = [part for part in (machine, fingerprint.get("python", "")) if part]
    known = ", ".join(parts or fingerprint.values())
    return known or "an unknown machine"


def _without_values(results: Sequence[GateResult], study: str | None) -> Iterator[str]:
    """Yield what else happened: results that are in no series."""
    empty: dict[tuple[str, str], list[GateResult]] = {}
    for result in results:
        if not _finite(result.values) and study in (None, result.study):
            empty.setdefault((result.study, result.verdict), []).append(result)
    for (name, verdict), group in empty.items():
        latest = max(group, key=lambda result: result.time)
        commit = f", commit {_commit(latest)}" if latest.commit else ""
        count = _results(len(group))
        yield f"{name}: {count} without a value ({verdict}), the latest at {_date(latest)}{commit}"


def _nothing(results: Sequence[GateResult], study: str | None) -> str:
    if study is None or not results:
        return "the gate has no results yet"
    names = ", ".join(dict.fromkeys(result.study for result in results))
    return f"the gate has no results of {study!r} yet; it has some of {names}"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _date(result: GateResult) -> str:
    return datetime.fromtimestamp(result.time, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _commit(result: GateResult) -> str:
    """Return a commit as people write it, with a star where files differed from it."""
    short = result.commit[:_COMMIT_LETTERS] or "-"
    return f"{short}*" if result.dirty else short
