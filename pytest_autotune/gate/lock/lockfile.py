"""The lock file: the best configuration of every study, committed next to the tests.

It is read by people in a diff and by every later run, so it is written in one order, changes only
where something changed, and is believed only after it was checked against its schema.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import UserError
from pytest_autotune.space.parameters import point_key
from pytest_autotune.spec.validation import MAX_DEPTH, MAX_ERRORS, schema_lines
from pytest_autotune.system.files import replace_file
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.places import Origin
from pytest_autotune.text.suggest import nearest, shown
from pytest_autotune.text.values import canonical

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

LOCK_NAME: Final = "autotune.lock.json"
VERSION: Final = 1
#: What of a fingerprint is the machine; the rest is software, which is upgraded on purpose.
HARDWARE: Final = ("cpu", "cpus", "memory", "machine", "system", "gpus", "gpu_clocks")
_ASKED: Final = frozenset({"model", "benchmark"})
_ABSENT: Final = "none"
#: A parameter may be as deep as a spec allows, and lies four levels down in the lock file.
_MAX_DEPTH: Final = MAX_DEPTH + 4
#: JSON's strings hold no line breaks, so no line of a lock file begins like this.
_CONFLICT: Final = re.compile(r"^(?:<{7}|\|{7}|>{7})(?:\s|$)", re.MULTILINE)


class LockError(UserError):
    """The lock file cannot be read or written, or an entry of it does not fit its spec.

    The message names the file, the JSON pointer and what to do.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedMetric:
    """One metric over several launches of the configuration; times are in seconds."""

    median: float
    low: float
    high: float
    launches: int

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, rounded."""
        return {
            "median": _rounded(self.median),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
            "launches": self.launches,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBound:
    """How the configuration stood to one bound of its SLO.

    ``upper`` tells a maximum from a minimum. ``margin`` is the share of ``limit`` that was left,
    negative where it was missed. None stands for what was not reported.
    """

    label: str
    metric: str
    limit: float
    upper: bool
    actual: float | None
    margin: float | None

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, what was measured rounded and the limit as declared."""
        return {
            "label": self.label,
            "metric": self.metric,
            "limit": float(self.limit),
            "upper": self.upper,
            "actual": None if self.actual is None else _rounded(self.actual),
            "margin": None if self.margin is None else _rounded(self.margin),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LockEntry:
    """The best configuration of one study, what it measured, and what it was found for.

    ``study`` is the study's label, ``metric`` the one that the objective was measured by, and one
    of ``metrics``. ``parameters`` are exact and in the order of the space. ``digests`` are of the
    spec's parts (see :func:`digests_of`), ``locked`` is a day in UTC, ``commit`` is empty where
    there was none.
    """

    study: str
    spec: str
    objective: str
    metric: str
    maximize: bool
    parameters: Mapping[str, Any]
    metrics: Mapping[str, LockedMetric]
    slo: tuple[LockedBound, ...]
    fingerprint: Mapping[str, str]
    digests: Mapping[str, str]
    commit: str
    locked: str
    by: str

    @property
    def median(self) -> float:
        """The objective's metric, rounded as it is stored."""
        return _rounded(self.metrics[self.metric].median)

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, always in the same order."""
        return {
            "spec": self.spec,
            "objective": self.objective,
            "metric": self.metric,
            "maximize": self.maximize,
            "parameters": dict(self.parameters),
            "metrics": {name: self.metrics[name].document() for name in sorted(self.metrics)},
            "slo": [bound.document() for bound in self.slo],
            "fingerprint": dict(sorted(self.fingerprint.items())),
            "digests": dict(sorted(self.digests.items())),
            "commit": self.commit,
            "locked": self.locked,
            "by": self.by,
        }


@dataclass(frozen=True, slots=True)
class LockFile:
    """The entries by study; ``path`` is None where they were not read from a file here."""

    path: Path | None
    entries: Mapping[str, LockEntry]


def digests_of(key: Mapping[str, Any]) -> Mapping[str, str]:
    """Return 12 hex digits for each part of a plan's key but the environment.

    What is served and asked for is the workload; how it is served is a part of its own.
    """
    parts = {name: key[name] for name in ("space", "objective", "slo")}
    given: Mapping[str, Any] = key["workload"]
    parts["workload"] = {name: given[name] for name in given if name in _ASKED}
    parts["server"] = {name: given[name] for name in given if name not in _ASKED}
    return {
        part: hashlib.sha256(_bytes(canonical(value))).hexdigest()[:12]
        for part, value in parts.items()
    }


def read_lock(path: Path) -> LockFile:
    """Read the lock file at ``path``; raise :class:`LockError` where it cannot be believed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        msg = (
            f"{path.name}: no such file in {path.parent}; "
            "pytest --autotune --autotune-lock writes it"
        )
        raise LockError(msg) from None
    except OSError as error:
        msg = f"{path.name}: cannot be read: {error}"
        raise LockError(msg) from None
    return LockFile(path, parse_lock(content, path.name).entries)


def parse_lock(text: str | bytes, where: str) -> LockFile:
    """Read a lock file from its content, such as ``git show`` prints it.

    ``where`` names it in messages. Raises :class:`LockError`.
    """
    document = _document(text, where)
    origin = Origin(file=where)
    problem = next(_unusable(document, ()), None)
    if problem is not None:
        path, what = problem
        msg = f"{origin.at(*path)}: {what}"
        raise LockError(msg)
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        msg = (
            f"{where}: written by a newer pytest-autotune (version {shown(version)}); "
            f"this one reads up to {VERSION}: upgrade"
        )
        raise LockError(msg)
    _validate(document, origin)
    entries = {name: _entry(name, entry) for name, entry in document["studies"].items()}
    for name, entry in entries.items():
        if entry.metric not in entry.metrics:
            msg = (
                f"{origin.at('studies', name, 'metric')}: {shown(entry.metric)} is not one of "
                f"the metrics{nearest(entry.metric, list(entry.metrics))}"
            )
            raise LockError(msg)
    return LockFile(None, entries)


def write_lock(path: Path, entries: Mapping[str, LockEntry]) -> bool:
    """Write ``entries``, by study, to the lock file at ``path``; tell whether it changed.

    Numbers must be finite. Readers see the old file or the new one, never a part. Raises
    :class:`LockError` where the file cannot be written.
    """
    assert all(entry.metric in entry.metrics for entry in entries.values())
    document = {
        "version": VERSION,
        "studies": {study: entries[study].document() for study in sorted(entries)},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is no Unicode, as of a file whose name is no UTF-8, becomes JSON's own escape.
    content = f"{text}\n".encode(errors="backslashreplace")
    target = Path(os.path.realpath(path))
    try:
        if _content(target) == content:
            return False
        replace_file(target, content)
    except OSError as error:
        msg = f"{path.name}: cannot be written: {error}"
        raise LockError(msg) from None
    return True


def refusal(old: LockEntry | None, new: LockEntry, *, tolerance: float) -> str | None:
    """Return why ``new`` must not replace ``old`` unless that is forced, or None.

    ``tolerance`` is the share of the old median by which the new one may be worse.
    """
    if old is None:
        return None
    other = foreign(old, new)
    if other:
        return f"it was locked on other hardware ({'; '.join(other)})"
    worse = _worse_by(old, new)
    if not _measure_the_same(old, new) or worse <= tolerance:
        return None
    amount = f"{100 * worse:.3g} % " if math.isfinite(worse) else ""
    return (
        f"what is locked is better: {old.metric} was {quantity(old.metric, old.median)} and is "
        f"{quantity(new.metric, new.median)} now, {amount}worse "
        f"(up to {100 * tolerance:.3g} % is tolerated)"
    )


def foreign(old: LockEntry, new: LockEntry) -> list[str]:
    """Name what makes the hardware of two entries another; empty where it is the same."""
    return environment_changes(_hardware(old), _hardware(new))


def unchanged(old: LockEntry, new: LockEntry, tolerance: float) -> bool:
    """Tell whether ``new`` says nothing that ``old`` does not, so that ``old`` may stay.

    ``tolerance`` is the share of the old median by which the new one may differ.
    """
    return (
        point_key(old.parameters) == point_key(new.parameters)
        and old.spec == new.spec
        and old.digests == new.digests
        and _measure_the_same(old, new)
        and is_comparable(old.fingerprint, new.fingerprint)
        and abs(_worse_by(old, new)) <= tolerance
    )


def environment_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Name what differs between two fingerprints, of the libraries only those that do."""
    changes = []
    for name in {**old, **new}:
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before == after:
            continue
        libraries = _library_changes(before, after) if name == "libraries" else ""
        changes.append(f"{name}: {libraries or f'{before} → {after}'}")
    return changes


def is_comparable(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Tell whether two fingerprints agree in everything."""
    return dict(old) == dict(new)


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    folder = resources.files("pytest_autotune.gate.lock")
    text = folder.joinpath("lock-schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def _validate(document: object, origin: Origin) -> None:
    errors = sorted(
        _validator().iter_errors(document), key=lambda error: list(map(str, error.absolute_path))
    )
    lines = list(dict.fromkeys(line for error in errors for line in schema_lines(error, origin)))
    if len(lines) > MAX_ERRORS:
        lines[MAX_ERRORS:] = [f"… and {len(lines) - MAX_ERRORS} more"]
    if lines:
        raise LockError("\n".join(lines))


def _document(text: str | bytes, where: str) -> Any:
    try:
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        msg = f"{where}: not UTF-8: byte 0x{error.object[error.start]:02x} in line {line}"
        raise LockError(msg) from None
    conflict = _CONFLICT.search(text)
    if conflict is not None:
        line = text.count("\n", 0, conflict.start()) + 1
        msg = (
            f"{where}: line {line}: git left its marks of a merge conflict; resolve it, or take "
            "one side whole (git checkout --ours or --theirs)"
        )
        raise LockError(msg)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        msg = f"{where}: not valid JSON: line {error.lineno} column {error.colno}: {error.msg}"
        raise LockError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{where}: not valid JSON: {error}"
        raise LockError(msg) from None


class _Repeating(dict[str, Any]):
    """An object of which ``key`` appears twice, kept until it is known where it is."""

    key: str = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    repeating = _Repeating(result)
    names = [name for name, _ in pairs]
    repeating.key = next(name for name in names if names.count(name) > 1)
    return repeating


def _unusable(
    value: object, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield where a document holds what Python's parser takes and a lock file must not have."""
    if len(path) > _MAX_DEPTH:
        yield path, f"nested more than {_MAX_DEPTH} levels deep"
    elif isinstance(value, _Repeating):
        yield path, f"key {value.key!r} appears twice"
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _unusable(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unusable(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} is not a finite number"
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        # Said without the number, which may be too long to print.
        yield path, f"this number is beyond ±{sys.float_info.max:.0e}"


def _entry(study: str, document: Mapping[str, Any]) -> LockEntry:
    metrics = {
        name: LockedMetric(
            median=float(metric["median"]),
            low=float(metric["low"]),
            high=float(metric["high"]),
            launches=int(metric["launches"]),
        )
        for name, metric in document["metrics"].items()
    }
    bounds = tuple(
        LockedBound(
            label=bound["label"],
            metric=bound["metric"],
            limit=float(bound["limit"]),
            upper=bound["upper"],
            actual=None if bound["actual"] is None else float(bound["actual"]),
            margin=None if bound["margin"] is None else float(bound["margin"]),
        )
        for bound in document["slo"]
    )
    return LockEntry(**{**document, "study": study, "metrics": metrics, "slo": bounds})


def _rounded(value: float) -> float:
    """Return ``value`` with six significant digits."""
    return float(f"{value:.6g}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _hardware(entry: LockEntry) -> Mapping[str, str]:
    return {name: entry.fingerprint[name] for name in HARDWARE if name in entry.fingerprint}


def _measure_the_same(old: LockEntry, new: LockEntry) -> bool:
    """Tell whether the medians of two entries are of one thing."""
    return (
        (old.objective, old.metric, old.maximize) == (new.objective, new.metric, new.maximize)
        and old.digests["workload"] == new.digests["workload"]
    )  # fmt: skip


def _worse_by(old: LockEntry, new: LockEntry) -> float:
    """Return by what share of the old median the new one is worse, negative if better."""
    change = old.median - new.median if old.maximize else new.median - old.median
    if not old.median:
        return math.copysign(math.inf, change) if change else 0.0
    return change / abs(old.median)


def _library_changes(before: str, after: str) -> str:
    old, new = _libraries(before), _libraries(after)
    return ", ".join(
        f"{name} {new[name]} added"
        if name not in old
        else f"{name} {old[name]} removed"
        if name not in new
        else f"{name} {old[name]} → {name} {new[name]}"
        for name in sorted({**old, **new})
        if old.get(name) != new.get(name)
    )


def _libraries(listed: str) -> Mapping[str, str]:
    """Return the versions by name of a fingerprint's ``libraries``."""
    parts = [item.partition(" ") for item in listed.split(", ") if item and item != _ABSENT]
    return {name: version for name, _, version in parts}
