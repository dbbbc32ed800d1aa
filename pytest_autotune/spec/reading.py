"""Read a YAML, TOML or JSON file: its content as plain JSON types, and the place of every value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.lines import json_places, toml_places
from pytest_autotune.spec.sizes import MAX_BYTES, too_large
from pytest_autotune.system.files import read_regular
from pytest_autotune.system.toml import parse_toml
from pytest_autotune.text.places import Place, Places, SyntaxProblem

Kind: TypeAlias = Literal["JSON", "TOML", "YAML"]
_KIND: Final[Mapping[str, Kind]] = {
    ".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML",
}  # fmt: skip
#: The parser of TOML takes quadratic time for the parts of a dotted key.
_MAX_PARTS: Final = 100
_NO_KEY: Final = re.compile(r"[\s,=\[\]{}]")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_document(path: Path, shown_as: str, kind: Kind | None = None) -> tuple[Any, Places]:
    """Return content and places of the file at ``path``; raise :class:`SpecError`.

    Without ``kind`` the suffix says how it is written.
    """
    kind = kind or _KIND.get(path.suffix)
    if kind is None:
        suffix = path.suffix or "suffixless"
        raise SpecError(f"{shown_as}: cannot read a {suffix} file; use .yaml, .toml or .json")
    try:
        content = read_regular(path, MAX_BYTES)
        # A line may end as on any system.
        text = "\n".join(content.decode("utf-8-sig").replace("\r\n", "\n").split("\r"))
    except FileNotFoundError:
        raise SpecError(f"{shown_as}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{shown_as}: cannot be read: {problem}") from None
    try:
        return _parse(kind, text)
    except SyntaxProblem as error:
        place = "" if error.place is None else f":{error.place}"
        problem = " ".join(str(error).split())
        raise SpecError(f"{shown_as}{place}: not valid {kind}: {problem}") from None
    except RecursionError:
        raise SpecError(f"{shown_as}: not valid {kind}: nested too deep") from None


@lru_cache(maxsize=8)
def _parse(kind: Kind, text: str) -> tuple[Any, Places]:
    """Parse ``text``, once for all specs in it; raise :class:`SyntaxProblem`."""
    if kind == "YAML":
        # Only who has YAML pays for it.
        from pytest_autotune.spec.yaml12 import parse_yaml

        return parse_yaml(text)
    return _parse_json(text) if kind == "JSON" else _parse_toml(text)


def _parse_json(text: str) -> tuple[Any, Places]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise SyntaxProblem(error.msg, Place(error.lineno, error.colno)) from None
    except ValueError:
        # Python reads no number of more than 4300 digits.
        raise SyntaxProblem("a number has too many digits") from None
    return _bounded(content), json_places(text)


def _parse_toml(text: str) -> tuple[Any, Places]:
    for line, written in enumerate(text.split("\n"), start=1):
        if written.count(".") > _MAX_PARTS and _parts(written) > _MAX_PARTS:
            raise SyntaxProblem("nested too deep", Place(line))
    try:
        return _bounded(parse_toml(text)), toml_places(text)
    except ValueError as error:
        found = _TOML_PLACE.search(str(error))
        place = None
        if found is not None:
            last = text.count("\n") + 1
            place = Place(int(found[1]), int(found[2])) if found[1] else Place(last)
        raise SyntaxProblem(_TOML_PLACE.sub("", str(error)), place) from None


def _parts(line: str) -> int:
    """Return the number of parts of the longest dotted key that a line may have."""
    longest = run = 0
    for part in map(str.strip, line.split(".")):
        run = run + 1 if part and not _NO_KEY.search(part) else 0
        longest = max(longest, run)
    return longest


def _bounded(content: Any) -> Any:
    """Return ``content``; raise :class:`SyntaxProblem` where it is too large."""
    problem = too_large(content)
    if problem:
        raise SyntaxProblem(problem)
    return content
