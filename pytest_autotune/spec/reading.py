"""Read a YAML, TOML or JSON file: its content as plain JSON types, and the place of every value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.lines import json_places, toml_places
from pytest_autotune.system.toml import parse_toml
from pytest_autotune.text.places import Place, Places, SyntaxProblem

_KIND: Final[Mapping[str, Literal["JSON", "TOML", "YAML"]]] = {
    ".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML",
}  # fmt: skip
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_document(path: Path, shown_as: str) -> tuple[Any, Places]:
    """Return content and places of the file at ``path``; raise :class:`SpecError`."""
    kind = _KIND.get(path.suffix)
    if kind is None:
        suffix = path.suffix or "suffixless"
        raise SpecError(f"{shown_as}: cannot read a {suffix} file; use .yaml, .toml or .json")
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{shown_as}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{shown_as}: cannot be read: {error}") from None
    try:
        return _parse(kind, text)
    except SyntaxProblem as error:
        place = "" if error.place is None else f":{error.place}"
        problem = " ".join(str(error).split())
        raise SpecError(f"{shown_as}{place}: not valid {kind}: {problem}") from None
    except RecursionError:
        raise SpecError(f"{shown_as}: not valid {kind}: nested too deep") from None


@lru_cache(maxsize=8)
def _parse(kind: Literal["JSON", "TOML", "YAML"], text: str) -> tuple[Any, Places]:
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
    return content, json_places(text)


def _parse_toml(text: str) -> tuple[Any, Places]:
    try:
        return parse_toml(text), toml_places(text)
    except ValueError as error:
        found = _TOML_PLACE.search(str(error))
        place = None
        if found is not None:
            last = text.count("\n") + 1
            place = Place(int(found[1]), int(found[2])) if found[1] else Place(last)
        raise SyntaxProblem(_TOML_PLACE.sub("", str(error)), place) from None
