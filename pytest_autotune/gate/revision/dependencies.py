"""The files of a repository that declare its dependencies.

The gate runs both revisions with the packages that are installed. So a change of them is not part
of its comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_autotune.gate.revision.repository import Commit, Repository
from pytest_autotune.system.toml import parse_toml

_PYPROJECT: Final = "pyproject.toml"
_FILES: Final = (
    _PYPROJECT,
    "requirements*.txt",
    "constraints*.txt",
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock.toml",
    "pylock.*.toml",
    "environment.yml",
    "environment.yaml",
)
#: The tables and keys of pyproject.toml that declare dependencies.
_TABLES: Final = (
    ("build-system", "requires"),
    ("project", "requires-python"),
    ("project", "dependencies"),
    ("project", "optional-dependencies"),
    ("dependency-groups",),
    ("tool", "poetry", "dependencies"),
    ("tool", "poetry", "dev-dependencies"),
    ("tool", "poetry", "group"),
)


def changed_dependency_files(repository: Repository, old: Commit, folder: Path) -> list[str]:
    """Return the files that declare other dependencies than ``old`` did, relative to the top.

    They lie at the top of the repository or in ``folder``. Raises :class:`.RevisionError`.
    """
    found: set[Path] = set()
    for place in (repository.top, folder):
        found |= repository.files_changed_since(old, place, _FILES)
    return [
        file.as_posix()
        for file in sorted(found)
        if file.name != _PYPROJECT or _tables_differ(repository, old, file)
    ]


def _tables_differ(repository: Repository, old: Commit, file: Path) -> bool:
    try:
        before = parse_toml(repository.file_at(old, file) or "")
        path = repository.top / file
        after = parse_toml(path.read_text("utf-8") if path.exists() else "")
    except (OSError, ValueError):
        return True
    return any(_entry(before, keys) != _entry(after, keys) for keys in _TABLES)


def _entry(document: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
