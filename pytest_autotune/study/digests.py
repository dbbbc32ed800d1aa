"""Digests of files: of Python without comments, docstrings and layout.

The spec in an ``autotune`` marker does not count either: it is no code, and is compared by itself.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Final

_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_MARKER: Final = "autotune"
#: Arguments of the marker that say how tests run, and not what to search.
_CODE_ARGUMENTS: Final = frozenset({"gpus"})
_DIGITS: Final = 12


def shown(root: Path, path: Path) -> str:
    """Return ``path`` as it is written in messages: relative to ``root``, with slashes."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def digest_of(path: Path) -> str:
    """Return the digest of a file, empty where there is none to read."""
    try:
        found = path.stat()
        return _digest_of(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=4096)
def _digest_of(path: Path, changed: int, size: int) -> str:  # noqa: ARG001 - for the cache
    return digest(path.name, path.read_bytes())


def digest(name: str, content: bytes) -> str:
    """Return the digest of a file's content: for Python without comments, docstrings and layout."""
    if name.endswith(".py"):
        tree = parsed(content)
        if tree is not None:
            _drop_docstrings(tree)
            _drop_specs(tree)
            content = ast.dump(tree, annotate_fields=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def parsed(content: bytes) -> ast.Module | None:
    """Return the syntax tree of Python source, None where it is none."""
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _drop_specs(tree: ast.Module) -> None:
    """Drop the specs in ``autotune`` markers, and the values of names that only they use."""
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == _MARKER:
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
