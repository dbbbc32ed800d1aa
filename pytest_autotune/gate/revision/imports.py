"""The import path of a process that runs the old revision, and a check of its imports."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pytest_autotune.system.toml import parse_toml

#: Folders of installed packages.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages", "__pypackages__"})


def map_path(path: Path, top: Path, tree: Path) -> Path:
    """Return the path in the worktree ``tree`` for one in ``top``; other paths stay."""
    inside = None if relative(path, tree) is not None else relative(path, top)
    return path if inside is None else tree / inside


def mapped_import_path(entries: Sequence[str], top: Path, tree: Path, keep: Path) -> list[str]:
    """Return the entries of ``sys.path`` in ``top`` as they are in the worktree ``tree``.

    They are for the ``PYTHONPATH`` of a process that imports the old revision. Entries outside
    ``top``, those of installed packages and the one of the package at ``keep`` are left out. An
    empty entry is the current folder. ``tree`` may be ``top`` itself.
    """
    kept = keep.resolve().parent
    elsewhere = tree != top
    found: dict[str, None] = {}
    for entry in entries:
        path = Path(entry)
        if path.resolve() == kept or (elsewhere and relative(path, tree) is not None):
            continue
        inside = relative(path, top)
        if inside is not None and not _is_installed(top, inside):
            found[str(tree / inside)] = None
    return list(found)


def editable_roots() -> list[str]:
    """Return the folders from which editable installs with an import hook import packages.

    It knows the hooks of setuptools, and of hatchling and others that use ``editables``. Both
    stand at the end of ``sys.meta_path``, so folders in ``PYTHONPATH`` come first. A package whose
    name differs from its folder's is left out, as no entry of ``sys.path`` finds it.
    """
    places: list[tuple[str, str]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__") and name.endswith("_finder"):
            places += _places(getattr(module, "MAPPING", None))
            places += _places(getattr(module, "NAMESPACES", None))
    for finder in sys.meta_path:
        places += _places(getattr(finder, "_redirections", None))
    roots: dict[str, None] = {}
    for package, place in places:
        path, parts = Path(place), tuple(package.split("."))
        path = path.parent if path.name == "__init__.py" else path
        path = path.with_suffix("") if path.suffix == ".py" else path
        if path.parts[-len(parts) :] == parts:
            roots[str(path.parents[len(parts) - 1])] = None
    return list(roots)


def _places(table: object) -> Iterator[tuple[str, str]]:
    """Yield packages with the file or folder from which a hook imports them."""
    if isinstance(table, Mapping):
        for package, places in table.items():
            for place in [places] if isinstance(places, str | os.PathLike) else places:
                yield str(package), os.fspath(place)


def installed_copies(top: Path, folders: Iterable[Path]) -> list[Path]:
    """Return the installed files and folders of packages of the repository at ``top``.

    A package belongs to it by the place it was installed from, or by the name of a project in one
    of ``folders``. Editable installs are no copies.
    """
    names = {_canonical(name) for folder in folders for name in _project_names(folder)}
    found: dict[Path, None] = {}
    for distribution in metadata.distributions():
        text = distribution.read_text("direct_url.json")
        origin: Mapping[str, Any] = json.loads(text) if text else {}
        if origin.get("dir_info", {}).get("editable"):
            continue
        source = urllib.parse.urlsplit(str(origin.get("url", "")))
        place = Path(urllib.parse.unquote(source.path))
        own = source.scheme == "file" and relative(place, top) is not None
        name = distribution.metadata["Name"] or ""
        if not own and _canonical(name) not in names:
            continue
        for file in distribution.files or ():
            first = file.parts[0]
            # Metadata, scripts and path files are no code.
            if first != ".." and not first.endswith((".dist-info", ".egg-info", ".pth")):
                found[Path(str(distribution.locate_file(first)))] = None
    return [place for place in found if place.is_dir() or place.suffix == ".py"]


def _project_names(folder: Path) -> Iterator[str]:
    try:
        document = parse_toml((folder / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return
    match document:
        case {"project": {"name": str(name)}}:
            yield name


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def strays(files: Iterable[str], top: Path, tree: Path, keep: Path) -> list[str]:
    """Return the files in ``top`` that a process imported although it runs ``tree``.

    Each of them would compare the new code with itself. Installed packages and the package at
    ``keep`` do not count, as both revisions share them.
    """
    found: dict[str, None] = {}
    for file in files:
        path = Path(file)
        # Frozen modules name a file that does not exist.
        if not path.is_absolute() and not path.is_file():
            continue
        if relative(path, tree) is not None or relative(path, keep) is not None:
            continue
        inside = relative(path, top)
        if inside is not None and not _is_installed(top, inside):
            found[file] = None
    return list(found)


def relative(path: Path, folder: Path) -> Path | None:
    """Return ``path`` relative to ``folder``, None if it is not inside.

    A link in the folder is inside, and so is a file in the folder that a link elsewhere leads to.
    """
    for place in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100 - keeps links
        for base in (folder, folder.resolve()):
            if place.is_relative_to(base):
                return place.relative_to(base)
    return None


def _is_installed(top: Path, inside: Path) -> bool:
    """Return whether a path in ``top`` belongs to a Python environment in it."""
    if not _INSTALLED.isdisjoint(inside.parts):
        return True
    # The interpreter may lie in the repository, and the repository in the interpreter's prefix
    # (/usr/src in /usr).
    prefixes = {Path(sys.prefix), Path(sys.exec_prefix), Path(sysconfig.get_paths()["stdlib"])}
    folders = [top / inside, *(top / parent for parent in inside.parents)]
    return any(
        folder in prefixes or (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()
        for folder in folders
        if folder != top
    )
