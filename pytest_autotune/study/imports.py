"""The user's own files that this process has imported, and those of them that a study uses."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from pytest_autotune.study.digests import digest, shown, source_of

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OWN: Final = Path(__file__).resolve().parents[1]


class ImportedFiles:
    """The first-party files that this process has imported, each read soon after its import.

    So a file that is edited while the run goes on counts as it was when it was imported.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._contents: dict[Path, bytes] = {}
        self._modules: dict[str, Path] = {}
        self._seen: set[str] = set()

    def look(self) -> bool:
        """Read the files of modules that are new since the last look; return whether any are."""
        before = len(self._contents)
        for name in sys.modules.keys() - self._seen:
            self._seen.add(name)
            path = self._own_file(sys.modules[name])
            if path is not None:
                self._modules[name] = path
                if path not in self._contents:
                    self._contents[path] = _content(path)
        return len(self._contents) > before

    def begins_with(self, module: Path, plugins: Collection[Path] = ()) -> Mapping[str, str]:
        """Return the digests of the files that import statements lead to from a test module.

        They lead from its conftest files and ``plugins``, too, as far as imported by now.
        """
        return self._digests(self._reachable(self._roots(module.resolve(), plugins)))

    def used_by(
        self, module: Path, others: Collection[Path], plugins: Collection[Path] = ()
    ) -> Mapping[str, str]:
        """Return the digests of the files that the study in ``module`` may use, by path.

        These are all that were imported, except ``others``, the test modules of other tests, their
        conftest files, and what only these import. If the study's own files import by name,
        everything counts. ``plugins`` of pytest may be used by any test.
        """
        roots = self._roots(module.resolve(), plugins)
        own = self._reachable(roots)
        if any(p.suffix == ".py" and source_of(self._contents[p]).dynamic for p in own):
            return self._digests(self._contents)
        conftests = {path for path in self._contents if path.name == "conftest.py"}
        foreign = self._reachable({*(path.resolve() for path in others), *conftests} - roots)
        return self._digests(path for path in self._contents if path in own or path not in foreign)

    def _roots(self, module: Path, plugins: Collection[Path]) -> set[Path]:
        conftests = {
            path
            for path in self._contents
            if path.name == "conftest.py" and module.is_relative_to(path.parent)
        }
        return {module, *conftests, *(path.resolve() for path in plugins)}

    def _digests(self, paths: Iterable[Path]) -> Mapping[str, str]:
        return {shown(self._root, path): digest(path.name, self._contents[path]) for path in paths}

    def _own_file(self, module: ModuleType) -> Path | None:
        """Return the file of a module of the user's, None for one of the environment."""
        found = getattr(module, "__file__", None)
        if not isinstance(found, str):
            return None
        path = Path(os.path.realpath(found))
        if not path.is_relative_to(self._root) or path.is_relative_to(_OWN):
            return None
        folders = path.relative_to(self._root).parts[:-1]
        # Hidden folders hold environments, and what compilers generate.
        if any(name.startswith(".") or name in _INSTALLED for name in folders):
            return None
        return None if _is_of_environment(path, self._root) else path

    def _reachable(self, roots: Iterable[Path]) -> set[Path]:
        """Return the files that import statements lead to from ``roots``, these included."""
        names = {path: name for name, path in self._modules.items()}
        found: set[Path] = set()
        waiting = [path for path in roots if path in self._contents]
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found.add(path)
            imported = _imported(self._contents[path], names.get(path, ""), path)
            waiting += [self._modules[name] for name in imported if name in self._modules]
        return found


@cache
def _environment() -> tuple[Path, ...]:
    """Return the folders of the interpreter and its libraries."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(os.path.realpath(path)) for path in paths if path)


def _is_of_environment(path: Path, root: Path) -> bool:
    return any(
        path.is_relative_to(folder) for folder in _environment() if not root.is_relative_to(folder)
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _imported(content: bytes, name: str, path: Path) -> Iterator[str]:
    """Yield the full names that import statements of the module ``name`` may mean."""
    if path.suffix != ".py":
        return
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for level, module, names in source_of(content).imports:
        above = package[: len(package) - level + 1] if level else []
        base = ".".join([*above, *([module] if module else [])])
        yield from _with_parents(base)
        yield from (f"{base}.{name}" for name in names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
