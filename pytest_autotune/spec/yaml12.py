"""YAML 1.2 by its core schema, as plain Python values that know their lines.

ruamel.yaml scans the text; the values are built here. ``on``, ``yes`` and ``2024-01-02`` are text,
``1e-3`` is a number and ``0o17`` is 15. A key may not appear twice. No value is of a type that JSON
does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from pytest_autotune.spec.sizes import MAX_VALUES
from pytest_autotune.text.places import Place, Places, SyntaxProblem, json_pointer

_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_TAG: Final = "tag:yaml.org,2002:"
_KINDS: Final = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
#: Keys and values that are written: the parser takes 30 µs for each.
_MAX_WRITTEN: Final = 50_000
#: No parser needs to go deeper for a spec, and ours slow down with depth.
_MAX_DEPTH: Final = 100


@dataclass(slots=True)
class _Node:
    """A part of the document: the text of a scalar, items of a list, or pairs of a mapping."""

    place: Place
    tag: str
    text: str = ""
    plain: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None

    @property
    def kind(self) -> str:
        """The name of the node's kind."""
        return "a mapping" if self.pairs is not None else "a list" if self.items is not None else ""

    @property
    def merges(self) -> bool:
        """True of the key ``<<``, unless it is in quotes."""
        return self.plain and self.text == "<<"


def parse_yaml(text: str) -> tuple[Any, Places]:
    """Return the content of a YAML document, and the place of each value.

    Raises :class:`SyntaxProblem`.
    """
    # The C parser of "safe" alone follows YAML 1.1.
    yaml = YAML(typ="safe", pure=True)
    try:
        root = _Composer(yaml.parse(text)).document()
    except SyntaxProblem:
        raise
    except MarkedYAMLError as error:
        raise _problem(error, text) from None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise SyntaxProblem(str(error).splitlines()[0], place) from None
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # ruamel.yaml does not expect every directive and escape that a file can hold.
        raise SyntaxProblem(str(error) or type(error).__name__) from None
    if root is None:
        return None, {}
    builder = _Builder()
    return builder.value(root, ""), builder.places


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _problem(error: MarkedYAMLError, text: str) -> SyntaxProblem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return SyntaxProblem(str(error.problem))
    place, said = _place(mark), str(error.problem)
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        said = "a tab indents this line; indent with spaces"
    elif error.context and error.context_mark and error.context_mark.line + 1 != place.line:
        said += f" ({error.context} that begins in line {error.context_mark.line + 1})"
    elif error.context:
        said += f" ({error.context})"
    return SyntaxProblem(said, place)


class _Composer:
    """Builds the nodes of a document from the events of a parser."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, _Node] = {}
        self._count = self._depth = 0

    def document(self) -> _Node | None:
        """Return the only document's root, None of an empty file."""
        root, found = None, False
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if found:
                    problem = "a second document begins here; keep one document in a file"
                    raise SyntaxProblem(problem, _place(event.start_mark))
                root, found = self._node(next(self._events)), True
        return root

    def _node(self, event: Any) -> _Node:
        place = _place(event.start_mark)
        self._count += 1
        if self._count > _MAX_WRITTEN:
            raise SyntaxProblem(f"more than {_MAX_WRITTEN} keys and values", place)
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise SyntaxProblem(f"no anchor &{event.anchor} comes before this alias", place)
            return self._anchors[event.anchor]
        node = _Node(place=place, tag="" if event.tag in (None, "!") else str(event.tag))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if isinstance(event, ScalarEvent):
            node.text, node.plain = event.value, bool(event.implicit[0]) and event.tag is None
        elif isinstance(event, SequenceStartEvent):
            node.items = list(self._until(SequenceEndEvent))
        else:
            inner = list(self._until(MappingEndEvent))
            node.pairs = list(zip(inner[::2], inner[1::2], strict=True))
        return node

    def _until(self, end: type) -> Iterator[_Node]:
        self._depth += 1
        for event in self._events:
            if isinstance(event, end):
                self._depth -= 1
                return
            if self._depth > _MAX_DEPTH:
                raise SyntaxProblem("nested too deep", _place(event.start_mark))
            yield self._node(event)


@dataclass(slots=True)
class _Builder:
    """Turns nodes into values; an alias becomes a copy, as JSON would have it."""

    places: dict[str, Place] = field(default_factory=dict)
    _open: list[_Node] = field(default_factory=list)
    _count: int = 0

    def value(self, node: _Node, pointer: str) -> Any:
        """Return the value of ``node``, whose JSON pointer is ``pointer``."""
        self.places.setdefault(pointer, node.place)
        with self._within(node):
            if node.items is not None:
                return [
                    self.value(item, f"{pointer}{json_pointer(index)}")
                    for index, item in enumerate(node.items)
                ]
            return _scalar(node) if node.pairs is None else self._mapping(node, pointer)

    @contextmanager
    def _within(self, node: _Node) -> Iterator[None]:
        """Look at a node once more, which must end."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise SyntaxProblem(f"aliases make more than {MAX_VALUES} values", node.place)
        if any(node is outer for outer in self._open):
            raise SyntaxProblem(f"{node.kind} contains itself by an alias", node.place)
        if node.kind and node.tag not in {"", f"{_TAG}{'seq' if node.pairs is None else 'map'}"}:
            raise SyntaxProblem(f"{node.kind} cannot have the tag {_shown(node.tag)}", node.place)
        self._open.append(node)
        yield
        self._open.pop()

    def _mapping(self, node: _Node, pointer: str) -> dict[Any, Any]:
        result = {}
        for key, (name, value) in self._pairs(node).items():
            inner = f"{pointer}{json_pointer(str(key))}"
            self.places[inner] = name.place
            result[key] = self.value(value, inner)
        return result

    def _pairs(self, node: _Node) -> dict[Any, tuple[_Node, _Node]]:
        """Return the pairs of a mapping by key, those first that ``<<`` takes over."""
        merged: dict[Any, tuple[_Node, _Node]] = {}
        for key, value in node.pairs or ():
            # Of several mappings the first one counts.
            for source in reversed(_sources(value)) if key.merges else ():
                with self._within(source):
                    merged |= self._pairs(source)
        return merged | _keys(node)


def _keys(node: _Node) -> dict[Any, tuple[_Node, _Node]]:
    """Return the pairs of a mapping by key, without those that it takes over."""
    found: dict[Any, tuple[_Node, _Node]] = {}
    merge: _Node | None = None
    for name, value in node.pairs or ():
        if name.merges:
            if merge is not None:
                problem = "key '<<' appears twice; write '<<: [*one, *other]'"
                raise SyntaxProblem(problem, name.place)
            merge = name
            continue
        if name.kind:
            raise SyntaxProblem(f"{name.kind} cannot be a key", name.place)
        key = _scalar(name)
        if key in found:
            first = found[key][0].place.line
            raise SyntaxProblem(f"key {key!r} appears twice, first in line {first}", name.place)
        found[key] = name, value
    return found


def _sources(node: _Node) -> list[_Node]:
    """Return the mappings that ``<<`` takes over."""
    sources = [node] if node.items is None else node.items
    for source in sources:
        if source.pairs is None:
            raise SyntaxProblem("'<<' takes over mappings only", source.place)
    return sources


def _scalar(node: _Node) -> Any:
    """Return text, a number, true, false or null."""
    text = node.text
    if node.plain:
        for kind, pattern in _KINDS.items():
            if pattern.fullmatch(text):
                return _converted(kind, node)
        return text
    if node.tag in {"", f"{_TAG}str"}:
        return text
    kind = node.tag.removeprefix(_TAG)
    if not node.tag.startswith(_TAG) or kind not in _KINDS:
        raise SyntaxProblem(f"the tag {_shown(node.tag)} is not known", node.place)
    if not _KINDS[kind].fullmatch(text) and not (kind == "float" and _INT.fullmatch(text)):
        raise SyntaxProblem(f"{text!r} is no {kind}", node.place)
    return _converted(kind, node)


def _converted(kind: str, node: _Node) -> Any:
    text = node.text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    try:
        if kind == "int":
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text if base == 10 else text[2:], base)  # noqa: PLR2004
        return float(text.replace(".", "") if text[-1].isalpha() else text)
    except ValueError:
        # Python reads no decimal number of more than 4300 digits.
        raise SyntaxProblem("this number has too many digits", node.place) from None


def _shown(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
