"""The history of the gate: a log with one line for each result."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_autotune.text.values import canonical

LOG: Final = "gate-history.jsonl"
#: Verdicts on results whose speed is not the usual one.
_UNUSUAL: Final = frozenset({"regressed", "failed"})
#: The end of the year 9999, past which there are no dates.
_LAST_TIME: Final = 253_402_300_800


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One result of the gate for one study.

    ``time`` is in seconds since the epoch. ``verdict`` is one of passed, improved, regressed,
    inconclusive, skipped and failed, ``mode`` one of revision, baseline and none. ``commit`` is
    empty where there is no git, and ``dirty`` is true if files differed from it. ``against`` is
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
        """Return plain JSON types, without values and ratios that are not finite."""
        return {name: getattr(self, name) for name in _CHECKS} | {
            "parameters": dict(self.parameters),
            "fingerprint": dict(self.fingerprint),
            "values": _finite(self.values),
            "ratios": _finite(self.ratios),
        }

    @classmethod
    def from_document(cls, document: object) -> GateResult:
        """Read a result back; raise ValueError if a field is missing or has another type.

        Further fields, which a later version may have written, are left out.
        """
        if not isinstance(document, Mapping):
            raise ValueError("it is no JSON object")  # noqa: TRY004 - what a file holds is no programming error
        missing = [name for name in _CHECKS if name not in document]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        wrong = [name for name, is_right in _CHECKS.items() if not is_right(document[name])]
        if wrong:
            raise ValueError(f"it has a wrong value for {', '.join(wrong)}")
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


def _has_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


def _has_numbers(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


#: The fields of a result, and checks of their values.
_CHECKS: Final = {
    "time": _is_time,
    "study": _is_text,
    "verdict": _is_text,
    "mode": _is_text,
    "commit": _is_text,
    "dirty": lambda value: isinstance(value, bool),
    "against": _is_text,
    "parameters": lambda value: isinstance(value, Mapping),
    "fingerprint": _has_texts,
    "values": _has_numbers,
    "ratios": _has_numbers,
    "launches": _is_count,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHistory:
    """Results in the order of the log, and one sentence per line that could not be read."""

    results: tuple[GateResult, ...] = ()
    problems: tuple[str, ...] = ()


def append(directory: Path, result: GateResult) -> None:
    """Add a result to the log in ``directory``; raise OSError if that fails.

    Processes of one machine may do so at the same time. A line that a killed process left
    unfinished stays one line. Raises TypeError if a parameter is no JSON value.
    """
    line = json.dumps(result.document(), separators=(",", ":")).encode() + b"\n"
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # If another process is still writing that line, this adds an empty one.
            line = b"\n" + line
        written = os.write(descriptor, line)
    finally:
        os.close(descriptor)
    if written < len(line):
        raise OSError(f"only {written} of {len(line)} bytes could be added to {directory / LOG}")


def read(directory: Path) -> GateHistory:
    """Read the log in ``directory``, which need not exist.

    Damaged lines raise nothing. Raises OSError if the file cannot be read.
    """
    path = directory / LOG
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return GateHistory()
    results: list[GateResult] = []
    problems: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            results.append(GateResult.from_document(_parsed(line)))
        except ValueError as error:
            problems.append(f"{path}, line {number} was left out: {error}")
    return GateHistory(results=tuple(results), problems=tuple(problems))


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


def series(results: Sequence[GateResult]) -> dict[tuple[str, str, str, str], list[GateResult]]:
    """Group results by study, metric, parameters and environment, as each first appears.

    Each group is in the order of time. A result without a value of a metric, such as a failed one,
    is in none of its groups.
    """
    groups: dict[tuple[str, str, str, str], list[GateResult]] = {}
    for result in results:
        setting = canonical(dict(result.parameters)), canonical(dict(result.fingerprint))
        for metric in result.values:
            groups.setdefault((result.study, metric, *setting), []).append(result)
    return {key: sorted(group, key=lambda result: result.time) for key, group in groups.items()}


def session_spread(
    results: Sequence[GateResult],
    *,
    study: str,
    metric: str,
    parameters: Mapping[str, Any],
    fingerprint: Mapping[str, str],
) -> list[float]:
    """Return the values of comparable earlier sessions, by time, in the metric's unit.

    They had the same parameters and environment, and neither regressed nor failed.
    """
    usual = [result for result in results if result.verdict not in _UNUSUAL]
    key = study, metric, canonical(dict(parameters)), canonical(dict(fingerprint))
    return [result.values[metric] for result in series(usual).get(key, ())]
