"""Digests of files: of Python without comments, docstrings and layout.

The spec in an ``autotune`` marker does not count either: it is no code, and is compared by itself.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
#: Names by which code imports what its import statements do not show.
_DYNAMIC: Final = frozenset(
    {
        "__import__", "exec", "import_module", "import_string", "importlib", "importorskip",
        "pytest_plugins", "runpy",
    }
)  # fmt: skip
#: Arguments of the marker that say how tests run, and not what to search.
_CODE_ARGUMENTS: Final = frozenset({"gpus"})
_DIGITS: Final = 12
_PIECE: Final = 1 << 20


def shown(root: Path, path: Path) -> str:
    """Return ``path`` as it is written in messages: relative to ``root``, with slashes."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def digest_of(path: Path, known: str = "") -> str:
    """Return the digest of a file, empty where there is none to read.

    It is ``known`` where the bytes are those of an earlier time: to parse a file takes long.
    """
    try:
        if not path.name.endswith(".py"):
            return _raw_digest_of(path)
        content = path.read_bytes()
    except OSError:
        return ""
    return known if known.endswith(f"-{raw_digest(content)}") else digest(path.name, content)


def _raw_digest_of(path: Path) -> str:
    """Return the digest of a file's bytes, which may be more than the memory holds."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()[:_DIGITS]


def digest(name: str, content: bytes) -> str:
    """Return the digest of a file's content.

    For Python it has two parts: of the meaning, without comments, docstrings and layout, and of
    the bytes.
    """
    raw = raw_digest(content)
    return f"{source_of(content).digest}-{raw}" if name.endswith(".py") else raw


def meaning(digest: str) -> str:
    """Return the part of a digest that counts."""
    return digest.partition("-")[0]


def raw_digest(content: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One version of a Python file, parsed once.

    ``imports`` are what its import statements name: dots, module and names. ``dynamic`` is
    whether it may import what no statement names.
    """

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...] = ()
    dynamic: bool = False


@lru_cache(maxsize=4096)
def source_of(content: bytes) -> Source:
    """Return the digest and the imports of Python source; other text is compared byte by byte."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return Source(digest=raw_digest(content), dynamic=True)
    imports = tuple(_imports(tree))
    dynamic = any(_is_dynamic(node) for node in ast.walk(tree))
    _drop_docstrings(tree)
    _drop_specs(tree)
    text = ast.dump(tree, annotate_fields=False).encode("utf-8", "surrogatepass")
    return Source(digest=raw_digest(text), imports=imports, dynamic=dynamic)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def _is_dynamic(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _DYNAMIC
        case ast.alias(name=name):
            return name.partition(".")[0] in _DYNAMIC
    return False


def _drop_specs(tree: ast.Module) -> None:
    """Drop the specs in ``autotune`` markers, and the values of names that only they use."""
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_marker(node.func):
            for keyword in node.keywords:
                names += _loads(keyword.value)
            node.keywords = [each for each in node.keywords if each.arg in _CODE_ARGUMENTS]
    loaded = _loads(tree)
    waiting = [name for name in names if name not in loaded]
    while waiting:
        name = waiting.pop()
        for statement in tree.body:
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if isinstance(statement, ast.Assign | ast.AnnAssign) and any(
                isinstance(target, ast.Name) and target.id == name for target in targets
            ):
                dropped = _drop(statement)
                loaded = _loads(tree)
                waiting += [other for other in dropped if other not in loaded]


def _is_marker(function: ast.expr) -> bool:
    """Return whether this is ``pytest.mark.autotune``: Triton has an ``autotune`` of its own."""
    match function:
        case ast.Attribute(attr="autotune", value=ast.Attribute(attr="mark") | ast.Name(id="mark")):
            return True
    return False


def _drop(node: ast.Assign | ast.AnnAssign) -> Counter[str]:
    """Replace the value of ``node`` by None; return the names that the value used."""
    if node.value is None:
        return Counter()
    names = _loads(node.value)
    node.value = ast.Constant(None)
    return names


def _loads(tree: ast.AST) -> Counter[str]:
    return Counter(
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
