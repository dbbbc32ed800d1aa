"""Repair of a damaged journal: what is damaged is replaced, and all else is kept.

Trials and studies have no ids in the log but their places. So each that was lost is replaced by one
that stands for it, or all later ones would be taken for others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_autotune.study.documents import LOST, MEASUREMENT, OWNER
from pytest_autotune.study.journal_lines import (
    CREATE_STUDY,
    CREATE_TRIAL,
    LINE,
    NUMBER,
    SET_STUDY_ATTRIBUTE,
    SET_TRIAL_ATTRIBUTE,
    SET_TRIAL_STATE,
    STUDY,
    TRIAL,
    Tally,
    place_of,
    read_line,
)

_FAILED: Final = 3
_MINIMIZE: Final = 1
#: Nobody's id, as no worker has an empty one.
_NOBODY: Final[Mapping[str, Any]] = {"worker_id": ""}
#: An entry that changes nothing.
_NOTHING: Final[Mapping[str, Any]] = {"op_code": SET_STUDY_ATTRIBUTE, **_NOBODY, STUDY: -1}
_MAKES_TRIAL: Final = (b'"datetime_start":', b'"distributions":', b'"intermediate_values":')
_MAKES_STUDY: Final = (b'"study_name":', b'"directions":')
_OF_TRIAL: Final = (
    b'"trial_id":',
    b'"system_attr":',
    b'"datetime_complete":',
    *(json.dumps(name).encode() for name in (MEASUREMENT, OWNER)),
)
_STUDY_ID: Final = re.compile(rb'"study_id":(\d+)\b')


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A journal after repair.

    ``lines`` are the numbers of damaged lines, from 1. ``trials`` counts those that lost their
    parameters or their result. ``doubtful`` are ids of studies of which something was lost that
    is not of a trial. ``cut`` is whether everything after the damage was lost.
    """

    content: bytes
    lines: list[int]
    trials: int
    doubtful: frozenset[int]
    cut: bool


@dataclass(kw_only=True)
class _Gap:
    """Damaged lines, one after the other, and the entries that replace them.

    ``is_vague`` is whether nothing but later entries can say what was in them. ``studies`` is the
    number of studies that they may have been about, none if they were about trials.
    """

    text: bytes
    lines: list[int]
    entries: list[Mapping[str, Any]] = field(default_factory=list)
    is_vague: bool = False
    studies: int = 0


class _CannotTell(Exception):
    """It is unknown which trials later entries are about."""


def is_sound(content: bytes) -> bool:
    """Return whether no line of a journal is damaged or missing."""
    for at, line in enumerate(content.splitlines(keepends=True)):
        place = place_of(line)
        if place is None or place > at:
            return False
    return True


def repair(content: bytes, unusable: Collection[int] = ()) -> Repaired:
    """Return a journal without damage.

    ``unusable`` are numbers of lines, from 0, that Optuna could not apply. A last line that was
    not written to its end is left out.
    """
    return _Repair(content, unusable).run()


class _Repair:
    def __init__(self, content: bytes, unusable: Collection[int]) -> None:
        self._rows = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        self._read = [
            None if at in unusable else read_line(row) for at, row in enumerate(self._rows)
        ]
        self._tally = Tally()
        self._parts: list[bytes | _Gap] = []
        self._lines: list[int] = []
        self._lost: set[int] = set()
        #: Trials whose result was read since the last damage: it is stored in one piece.
        self._measured: set[int] = set()
        self._vague: _Gap | None = None

    def run(self) -> Repaired:
        cut = False
        at = 0
        while at < len(self._rows):
            entry = self._read[at]
            if entry is None or _lines_before(entry, self._tally):
                at = self._pass_gap(at)
                entry = self._read[at] if at < len(self._rows) else None
            if entry is None:
                break
            try:
                self._pass_entry(at, entry)
            except _CannotTell:
                assert self._vague is not None
                self._parts = self._parts[: self._parts.index(self._vague)]
                cut = True
                break
            at += 1
        tally, found, doubtful = Tally(), list[bytes](), 0
        for part in self._parts:
            if isinstance(part, bytes):
                found.append(part)
                tally.add(json.loads(part))
            else:
                found.append(_filled(part, tally))
                if _NOTHING in part.entries:
                    # Something was there that is no lost trial, nor a lost study.
                    doubtful = max(doubtful, part.studies)
        return Repaired(
            content=b"".join(found),
            lines=self._lines,
            trials=len(self._lost),
            doubtful=frozenset(range(doubtful)),
            cut=cut,
        )

    def _pass_gap(self, first: int) -> int:
        """Look at damaged or missing lines; return the place of the next sound one."""
        after = first
        while after < len(self._rows) and self._read[after] is None:
            after += 1
        following = self._read[after] if after < len(self._rows) else None
        lines = list(range(first + 1, max(after, first + 1) + 1))
        self._lines += lines
        gap = _Gap(text=b"".join(self._rows[first:after]), lines=lines)
        self._parts.append(gap)
        number = len(lines)
        if following is not None and LINE in following:
            number = _lines_before(following, self._tally)
        if number == 0:
            return after  # Nothing of ours was there.
        self._measured.clear()
        if number == 1 and gap.text.count(b'"op_code":') <= 1:
            self._guess(gap)
        else:
            gap.is_vague = True
            gap.studies = len(self._tally.numbers)
        while len(gap.entries) < number:
            self._put(gap, _NOTHING)
        if gap.is_vague:
            self._vague = gap
        return after

    def _guess(self, gap: _Gap) -> None:
        """Replace one entry by what can be seen of it."""
        study = _STUDY_ID.search(gap.text)
        id_ = -1 if study is None else int(study[1])
        if any(sign in gap.text for sign in _MAKES_TRIAL):
            if self._tally.has(id_):
                self._lose_trial(gap, id_)
            else:
                gap.is_vague = True
        elif any(sign in gap.text for sign in _MAKES_STUDY):
            self._lose_study(gap)
        elif any(sign in gap.text for sign in _OF_TRIAL):
            found = re.search(rb'"trial_id":(\d+)\b', gap.text)
            if found is not None and int(found[1]) < self._tally.trials:
                self._lost.add(int(found[1]))
        else:
            gap.is_vague = study is None
            gap.studies = len(self._tally.numbers)

    def _put(self, gap: _Gap, entry: Mapping[str, Any]) -> None:
        """Add an entry to a gap; one that changes nothing makes room for it."""
        if gap is self._vague and _NOTHING in gap.entries:
            gap.entries.remove(_NOTHING)
            self._tally.entries -= 1
        gap.entries.append(entry)
        self._tally.add(entry)

    def _lose_trial(self, gap: _Gap, study: int) -> None:
        self._lost.add(self._tally.trials)
        attributes = {"state": _FAILED, "datetime_start": None, "user_attrs": {LOST: True}}
        self._put(gap, {"op_code": CREATE_TRIAL, **_NOBODY, STUDY: study, **attributes})

    def _lose_study(self, gap: _Gap) -> None:
        name = f"lost in line {gap.lines[0]} ({len(self._tally.numbers)})"
        made = {"study_name": name, "directions": [_MINIMIZE]}
        self._put(gap, {"op_code": CREATE_STUDY, **_NOBODY, **made})

    def _pass_entry(self, at: int, entry: Mapping[str, Any]) -> None:
        row = self._rows[at]
        operation = entry["op_code"]
        if operation == CREATE_STUDY:
            self._find_studies(entry)
        elif operation == CREATE_TRIAL:
            self._find_trials(entry)
        elif isinstance(entry.get(TRIAL), int):
            if self._vague is not None and self._tally.numbers:
                while self._tally.trials <= entry[TRIAL]:
                    self._lose_trial(self._vague, len(self._tally.numbers) - 1)
            if operation == SET_TRIAL_ATTRIBUTE and MEASUREMENT in entry["user_attr"]:
                self._measured.add(entry[TRIAL])
            if self._lines and operation == SET_TRIAL_STATE and entry[TRIAL] not in self._measured:
                # It would be taken for a trial that failed.
                self._lost.add(entry[TRIAL])
                self._parts.append(_Gap(text=row, lines=[], entries=[_NOTHING]))
                self._tally.add(_NOTHING)
                return
        self._parts.append(row)
        self._tally.add(entry)

    def _find_studies(self, entry: Mapping[str, Any]) -> None:
        """Replace the studies that must have been lost before one of a known id."""
        known, here = entry.get(STUDY), len(self._tally.numbers)
        if self._vague is None:
            return
        if known is None or known < here:
            raise _CannotTell
        while len(self._tally.numbers) < known:
            self._lose_study(self._vague)

    def _find_trials(self, entry: Mapping[str, Any]) -> None:
        """Replace the trials that must have been lost before one of a known id and number."""
        if self._vague is None:
            return
        study = entry[STUDY]
        if TRIAL not in entry or not self._tally.has(study):
            raise _CannotTell
        here = entry[NUMBER] - self._tally.numbers[study]
        elsewhere = entry[TRIAL] - self._tally.trials - here
        others = [id_ for id_ in range(len(self._tally.numbers)) if id_ != study]
        if here < 0 or elsewhere < 0 or (elsewhere and not others):
            raise _CannotTell
        for _ in range(here):
            self._lose_trial(self._vague, study)
        for _ in range(elsewhere):
            self._lose_trial(self._vague, others[-1])
        self._vague = None


def _lines_before(entry: Mapping[str, Any], tally: Tally) -> int:
    """Return the number of entries that are missing before one that says its place."""
    return max(int(entry.get(LINE, 0)) - tally.entries, 0)


def _filled(gap: _Gap, tally: Tally) -> bytes:
    """Return the lines that replace a gap, as long as it was where that is possible.

    Other processes that read the journal at this moment remember where its lines are.
    """
    lines = []
    for entry in gap.entries:
        lines.append(tally.line(entry))
        tally.add(entry)
    text = b"".join(lines)
    if not lines or len(text) > len(gap.text):
        return text
    return text[:-1] + b" " * (len(gap.text) - len(text)) + b"\n"
