"""The lock file: the best configuration of every study, committed next to the tests.

People read it in a diff. So its order is always the same, and only changed entries change.
It is checked against its schema before it is used.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.gate.lock.entry import LockEntry, LockError
from pytest_autotune.spec.validation import MAX_DEPTH, schema_lines, shortened
from pytest_autotune.system.files import read_regular, replace_file
from pytest_autotune.text.places import Origin
from pytest_autotune.text.suggest import nearest, shown

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

LOCK_NAME: Final = "autotune.lock.json"
VERSION: Final = 1
#: A parameter may be as deep as a spec allows, and lies four levels down in the lock file.
_MAX_DEPTH: Final = MAX_DEPTH + 4
#: A study's entry has a few kilobytes.
_MAX_BYTES: Final = 16_000_000
#: JSON's strings hold no line breaks, so no line of a lock file begins like this.
_CONFLICT: Final = re.compile(r"^(?:<{7}|\|{7}|>{7})(?:\s|$)", re.MULTILINE)


def read_lock_file(path: Path) -> Mapping[str, LockEntry]:
    """Return the entries of the lock file at ``path`` by study.

    Raises :class:`.LockError` if it is not valid.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except FileNotFoundError:
        raise LockError(
            f"{path.name}: no such file in {path.parent}; "
            "pytest --autotune --autotune-lock writes it"
        ) from None
    except OSError as error:
        raise LockError(f"{path.name}: cannot be read: {error.strerror}") from None
    return parse_lock(content, path.name)


def parse_lock(text: str | bytes, where: str) -> Mapping[str, LockEntry]:
    """Return the entries of a lock file by study; ``where`` names it in messages.

    Raises :class:`.LockError`.
    """
    document = _document(text, where)
    origin = Origin(file=where)
    problem = next(_unusable(document, ()), None)
    if problem is not None:
        path, what = problem
        raise LockError(f"{origin.at(*path)}: {what}")
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        raise LockError(
            f"{where}: written by a newer pytest-autotune (version {shown(version)}); "
            f"this one reads up to {VERSION}: upgrade"
        )
    _validate(document, origin)
    entries = {
        name: LockEntry.from_document(name, entry) for name, entry in document["studies"].items()
    }
    for name, entry in entries.items():
        if entry.metric not in entry.metrics:
            raise LockError(
                f"{origin.at('studies', name, 'metric')}: {shown(entry.metric)} is not one of "
                f"the metrics{nearest(entry.metric, list(entry.metrics))}"
            )
    return entries


def write_lock(path: Path, entries: Mapping[str, LockEntry]) -> bool:
    """Write ``entries``, by study, to the lock file at ``path``; return whether it changed.

    Numbers must be finite. Readers see the old file or the new one, never a part. Raises
    :class:`.LockError` if the file cannot be written.
    """
    assert all(entry.metric in entry.metrics for entry in entries.values())
    document = {
        "version": VERSION,
        "studies": {study: entries[study].document() for study in sorted(entries)},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # A file's name need not be UTF-8. Its other bytes become escapes of JSON.
    content = f"{text}\n".encode(errors="backslashreplace")
    target = Path(os.path.realpath(path))
    try:
        with suppress(FileNotFoundError):
            if target.read_bytes() == content:
                return False
        replace_file(target, content)
    except OSError as error:
        raise LockError(f"{path.name}: cannot be written: {error}") from None
    return True


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
    if lines:
        raise LockError("\n".join(shortened(lines)))


def _document(text: str | bytes, where: str) -> Any:
    try:
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise LockError(
            f"{where}: not UTF-8: byte 0x{error.object[error.start]:02x} in line {line}"
        ) from None
    conflict = _CONFLICT.search(text)
    if conflict is not None:
        line = text.count("\n", 0, conflict.start()) + 1
        raise LockError(
            f"{where}: line {line}: git left its marks of a merge conflict; resolve it, or take "
            "one side whole (git checkout --ours or --theirs)"
        )
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise LockError(
            f"{where}: not valid JSON: line {error.lineno} column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise LockError(f"{where}: not valid JSON: {error}") from None


class _Repeating(dict[str, Any]):
    """An object with ``key`` twice. Its place is known only after parsing."""

    def __init__(self, content: Mapping[str, Any], key: str) -> None:
        super().__init__(content)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    counts = Counter(name for name, _ in pairs)
    return _Repeating(result, next(name for name in counts if counts[name] > 1))


def _unusable(
    value: object, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield places and descriptions of values that JSON does not have, or that are too deep."""
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
        # The number itself may be too long to print.
        yield path, f"this number is beyond ±{sys.float_info.max:.0e}"
