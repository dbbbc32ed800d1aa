"""Check a document against the published JSON Schema, in words a person can act on."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.errors import SpecError
from pytest_autotune.text.durations import parse_time
from pytest_autotune.text.suggest import did_you_mean, nearest, shown

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

    from pytest_autotune.text.places import Origin

MAX_ERRORS: Final = 5
MAX_DEPTH: Final = 50
#: What only a shell makes something of.
_SHELL: Final = re.compile(r"[&|;<>$`*?\n]")
#: Whole numbers up to here fit 64 bits, and differences of real ones do not overflow.
MAX_NUMBER: Final = 1e18


def schema_text() -> str:
    """Return the JSON Schema (draft 2020-12) of spec files, as shipped in the package."""
    return resources.files("pytest_autotune.spec").joinpath("schema.json").read_text("utf-8")


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text())
    return Draft202012Validator({**schema["$defs"]["spec"], "$defs": schema["$defs"]})


def validate(document: object, origin: Origin) -> Mapping[str, Any]:
    """Return ``document`` if it is a spec, else raise :class:`SpecError` with every reason."""
    return conforming(document, origin, _validator())


def conforming(
    document: object, origin: Origin, validator: Draft202012Validator
) -> Mapping[str, Any]:
    """Return ``document`` if it keeps to a schema of mappings, else raise :class:`SpecError`."""
    plain_problem = next(_not_json(document, ()), None)
    if plain_problem is not None:
        path, problem = plain_problem
        raise SpecError(f"{origin.at(*path)}: {problem}")
    errors = sorted(
        _leaves(validator.iter_errors(document)), key=lambda e: list(map(str, e.absolute_path))
    )
    if errors:
        found = (line for error in errors for line in schema_lines(error, origin))
        lines = list(dict.fromkeys(found))
        raise SpecError("\n".join(shortened(lines)))
    assert isinstance(document, Mapping)
    return document


def shortened(lines: Sequence[str]) -> list[str]:
    """Return the first of some lines, and the number of the others."""
    more = len(lines) - MAX_ERRORS
    return [*lines[:MAX_ERRORS], *([f"… and {more} more"] if more > 0 else ())]


def _not_json(
    value: object, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the places of values that JSON does not have (dates, NaN, number keys)."""
    if len(path) > MAX_DEPTH:
        yield path, f"nested more than {MAX_DEPTH} levels deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield path, f"key {key!r} is not a string; put it in quotes"
            else:
                yield from _not_json(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_json(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} is not a finite number"
    elif isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        # Said without the number, which may be too long to print.
        yield path, f"this number is beyond ±{MAX_NUMBER:.0e}"
    elif not isinstance(value, str | int | float | bool | None):
        yield path, f"{shown(value)} is a {type(value).__name__}; put it in quotes"


def _leaves(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    """Replace an ``anyOf`` error by the alternative that came closest."""
    for error in errors:
        if error.validator == "anyOf" and error.context:
            of_right_type = [e for e in error.context if e.validator != "type"]
            yield from _leaves(of_right_type or error.context[:1])
        else:
            yield error


def schema_lines(error: ValidationError, origin: Origin) -> Iterator[str]:
    """Describe an error, an unknown key each on a line of its own."""
    schema = error.schema
    if error.validator != "additionalProperties" or not isinstance(schema, Mapping):
        yield _describe(error, origin)
        return
    instance: Any = error.instance
    for key in instance:
        if not _is_known(key, schema):
            yield f"{origin.at(*error.absolute_path, key)}: {_unknown(key, schema)}"


def refuse_unknown_keys(keys: Iterable[str], more: Sequence[str], origin: Origin) -> None:
    """Raise :class:`SpecError` for keys that are neither a spec's nor among ``more``."""
    schema = _validator().schema
    assert isinstance(schema, Mapping)
    lines = [
        f"{origin.at(key)}: {_unknown(key, schema, more)}"
        for key in keys
        if key not in more and not _is_known(key, schema)
    ]
    if lines:
        raise SpecError("\n".join(shortened(lines)))


def _unknown(key: str, schema: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    known = [*more, *schema.get("properties", ()), *schema.get("patternProperties", ())]
    return f"unknown key {key!r}{_block_of(key, schema) or nearest(key, known)}"


def _block_of(key: str, schema: Mapping[str, Any]) -> str:
    """Return a hint where a key belongs into a block beside it, empty if it does not."""
    blocks = schema.get("properties", {})
    found = [name for name, block in blocks.items() if key in block.get("properties", ())]
    return f"; did you mean the {key!r} of {found[0]!r}?" if len(found) == 1 else ""


def _describe(error: ValidationError, origin: Origin) -> str:
    where = origin.at(*error.absolute_path)
    if isinstance(error.schema, Mapping) and error.schema.get("title") == "Time":
        return f"{where}: {_not_a_time(error.instance)}"
    if isinstance(error.schema, Mapping) and error.schema.get("title") == "Arguments":
        said = _not_arguments(error.instance)
        if said:
            return f"{where}: {said}"
    value = shown(error.instance)
    wanted: Any = error.validator_value
    instance: Any = error.instance
    match error.validator:
        case "required":
            absent = ", ".join(repr(key) for key in wanted if key not in instance)
            return f"{where}: {value} lacks {absent}"
        case "enum":
            allowed = ", ".join(map(repr, wanted))
            return f"{where}: {value} is not one of {allowed}{did_you_mean(instance, wanted)}"
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            described = " or ".join(_ARTICLES[kind] for kind in kinds)
            return f"{where}: {value} is not {described}{_text_hint(instance, kinds)}"
        case "oneOf":
            names = [" and ".join(option["required"]) for option in wanted]
            return f"{where}: {value} needs exactly one of {' or '.join(names)}"
        case str(keyword) if keyword in _SENTENCES:
            return f"{where}: {value} {_SENTENCES[keyword].format(wanted)}"
        case _:
            return f"{where}: {error.message}"


def _is_known(key: str, schema: Mapping[str, Any]) -> bool:
    patterns = schema.get("patternProperties", ())
    return key in schema.get("properties", ()) or any(re.search(p, key) for p in patterns)


_SENTENCES: Final[Mapping[str, str]] = {
    "minimum": "is below the minimum of {}",
    "maximum": "is above the maximum of {}",
    "exclusiveMinimum": "must be greater than {}",
    "minLength": "is empty",
    "minProperties": "is empty",
    "maxProperties": "has more than {} keys",
    "maxItems": "has more than {} items",
    "not": "has both 'step' and 'log'; use one of them",
    "pattern": "does not match {}",
}
_ARTICLES: Final[Mapping[str, str]] = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a string",
}


def _not_a_time(instance: object) -> str:
    if not isinstance(instance, str):
        return f"{shown(instance)} is not a number, nor a time such as 200ms"
    try:
        parse_time(instance)
    except ValueError as error:
        return str(error)
    return f"{shown(instance)} is not a time; write for example 0.2, 200ms or 1.5s"


def _not_arguments(instance: object) -> str:
    """Return how to write a command line as arguments, empty for what is no command line."""
    if not isinstance(instance, str) or not instance.strip():
        return ""
    try:
        words = shlex.split(instance)
    except ValueError:
        words = []
    if not words or _SHELL.search(instance):
        words = ["sh", "-c", instance]
    listed = json.dumps(words, ensure_ascii=False)
    return f"{shown(instance)} is one text, and no shell reads it; write arguments: {listed}"


#: YAML 1.1 read these as true or false; in YAML 1.2 they are text.
_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("yes", "on", "y"), "true"),
    **dict.fromkeys(("no", "off", "n"), "false"),
}


def _text_hint(instance: object, kinds: Sequence[str]) -> str:
    """Return a hint for text where a number, true or false is wanted, such as what to write."""
    if not isinstance(instance, str):
        return ""
    if "boolean" in kinds and instance.lower() in _WORDS:
        return f" but text; write {_WORDS[instance.lower()]}"
    if not {"number", "integer"} & set(kinds):
        return ""
    try:
        number = float(instance)
    except ValueError:
        return ""
    return f" but text; write {number!r} without {'underscores' if '_' in instance else 'quotes'}"
