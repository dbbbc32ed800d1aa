"""Lines of a journal: entries of Optuna's log, with what shows damage to them.

Optuna ignores the further keys: ``line`` is the entry's place in the log, ``check`` is a checksum
of everything before it, and entries that make a trial or a study say which. Entries of earlier
versions, and those that Optuna's own classes wrote, have none of them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Codes of operations, as Optuna writes them.
CREATE_STUDY: Final = 0
DELETE_STUDY: Final = 1
SET_STUDY_ATTRIBUTE: Final = 2
CREATE_TRIAL: Final = 4
SET_TRIAL_STATE: Final = 6
SET_TRIAL_ATTRIBUTE: Final = 8
#: Later versions of Optuna may know more of them.
LAST_OPERATION: Final = 10

LINE: Final = "line"
TRIAL: Final = "trial_id"
NUMBER: Final = "number"
STUDY: Final = "study_id"
_CHECK: Final = re.compile(rb',"check":"([0-9a-f]{8})"\}$')
_PLACE: Final = re.compile(rb',"line":(\d+)(?:,"[a-z_]+":\d+)*,"check":"[0-9a-f]{8}"\}$')


@dataclass(kw_only=True)
class Tally:
    """The number of entries in a log so far, and of the trials in each study, by study id."""

    entries: int = 0
    trials: int = 0
    numbers: list[int] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _deleted: set[int] = field(default_factory=set)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one more entry, as Optuna does."""
        self.entries += 1
        operation = entry["op_code"]
        if operation == CREATE_STUDY and entry["study_name"] not in self._names:
            self._names.add(entry["study_name"])
            self.numbers.append(0)
        elif operation == DELETE_STUDY:
            self._deleted.add(entry[STUDY])
        elif operation == CREATE_TRIAL and self.has(entry[STUDY]):
            self.trials += 1
            self.numbers[entry[STUDY]] += 1

    def has(self, study: int) -> bool:
        """Return whether there is a study of this id."""
        return 0 <= study < len(self.numbers) and study not in self._deleted

    def line(self, entry: Mapping[str, Any]) -> bytes:
        """Return the line for an entry that comes next."""
        marked = {**entry, LINE: self.entries}
        if entry["op_code"] == CREATE_STUDY:
            marked[STUDY] = len(self.numbers)
        elif entry["op_code"] == CREATE_TRIAL and self.has(entry[STUDY]):
            marked[TRIAL] = self.trials
            marked[NUMBER] = self.numbers[entry[STUDY]]
        body = json.dumps(marked, separators=(",", ":")).encode()
        return body[:-1] + b',"check":"%08x"}\n' % zlib.crc32(body)


def read_line(line: bytes) -> Mapping[str, Any] | None:
    """Return the entry of a line, None where it is damaged."""
    text = line.rstrip()
    checked = _is_checked(text)
    if checked is False:
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(entry, dict):
        return None
    if LINE in entry and not checked:
        return None  # No line that says its place is written without a checksum.
    return entry if "op_code" in entry and "worker_id" in entry else None


def place_of(line: bytes) -> int | None:
    """Return the place that a line says, 0 where it says none, None where it is damaged."""
    text = line.rstrip()
    said = _PLACE.search(text)
    # Where the checksum is right, the rest need not be looked at: a log is long.
    if said is not None and line.endswith(b"\n") and _is_checked(text):
        return int(said[1])
    entry = read_line(line)
    return None if entry is None else entry.get(LINE, 0)


def _is_checked(text: bytes) -> bool | None:
    """Return whether the checksum of a line is right, None where it has none."""
    check = _CHECK.search(text)
    if check is None:
        return None
    return zlib.crc32(text[: check.start()] + b"}") == int(check[1], 16)
