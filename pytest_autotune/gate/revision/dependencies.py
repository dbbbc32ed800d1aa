"""How what a repository declares to depend on differs between two revisions.

The gate runs both with the packages that are installed, so what a change of them does to speed is
not in its comparison.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pytest_autotune.gate.revision.revision import Commit, Repository
from pytest_autotune.system.toml import parse_toml

#: For each name, in how many ways it is declared: by specifiers or versions, for people.
_Declared = dict[str, set[str]]

_ANY: Final = "any version"
_REQUIREMENTS: Final = "requirements"
#: What names a package by where it is, in a requirements file.
_PLACE: Final = re.compile(r"^[./~]|://|\.(whl|zip|tar\.gz)$")
_EGG: Final = re.compile(r"[#&]egg=([\w.-]+)")
_COMMENT: Final = re.compile(r"(^|\s)#.*")
_CONTINUED: Final = re.compile(r"\\\r?\n")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")
#: Options of which a file has many, each of its own.
_SEVERAL: Final = frozenset({"-r", "--requirement", "-c", "--constraint", "-e", "--editable"})
_CONDA: Final = re.compile(r"(?:[^\s:]+::?)?([\w.-]+)\s*(.*)")
_SHORT_ID: Final = 9


def differences(
    repository: Repository, old: Commit, new_top: Path, folders: Sequence[Path] = ()
) -> list[str]:
    """Return how the declared dependencies of ``old`` differ from those of a working tree.

    Looked at are the files of ``new_top`` and of those ``folders`` that are in it. A sentence is
    about one name in one file, or about a file that cannot be understood or a lock file that came
    or went. Their order is that of the folders, the kinds of files, and the names. Raises
    :class:`.RevisionError`.
    """
    top = new_top.resolve()
    found: list[str] = []
    for folder in dict.fromkeys([top, *(folder.resolve() for folder in folders)]):
        if not folder.is_relative_to(top):
            continue
        inside = folder.relative_to(top)
        names = _names_then(repository, old, inside) | _names_now(folder)
        for pattern, read in _FILES.items():
            for name in sorted(name for name in names if fnmatchcase(name, pattern)):
                before, after = repository.file_at(old, inside / name), _text(folder / name)
                # One that git ignores would be in no commit.
                if before == after or (before is None and repository.ignores(folder / name)):
                    continue
                found += _sentences(before, after, (inside / name).as_posix(), read)
    return found


def _names_then(repository: Repository, old: Commit, inside: Path) -> set[str]:
    deeper = repository.names_at(old, inside / _REQUIREMENTS)
    return {*repository.names_at(old, inside), *(f"{_REQUIREMENTS}/{name}" for name in deeper)}


def _names_now(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for place in (folder, folder / _REQUIREMENTS)
        if place.is_dir()
        for path in place.iterdir()
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def _sentences(
    before: str | None, after: str | None, file: str, read: Callable[[str], _Declared]
) -> list[str]:
    if read is _lock and (before is None or after is None):
        return [f"{'added' if before is None else 'removed'} {file}"]
    try:
        then, now = read(before or ""), read(after or "")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        # Whatever is not as it should be in there, it is not for the gate to say.
        return [f"{file} differs"]
    found = []
    for name in sorted({*then, *now}):
        if name not in then:
            found.append(f"added {name} ({file})")
        elif name not in now:
            found.append(f"removed {name} ({file})")
        elif then[name] != now[name]:
            found.append(f"{name}: {_joined(then[name])} → {_joined(now[name])} ({file})")
    return found


def _joined(ways: Iterable[str]) -> str:
    return " and ".join(sorted(ways))


def _pyproject(text: str) -> _Declared:
    document, found = parse_toml(text), defaultdict[str, set[str]](set)
    project = document.get("project", {})
    if "requires-python" in project:
        found["python"].add(str(project["requires-python"]))
    _require(found, project.get("dependencies", []), "")
    for extra, required in project.get("optional-dependencies", {}).items():
        _require(found, required, f" in extra {extra}")
    for group, required in document.get("dependency-groups", {}).items():
        # A table includes another group, whose own changes are told.
        _require(found, [line for line in required if isinstance(line, str)], f" in group {group}")
    _require(found, document.get("build-system", {}).get("requires", []), " to build")
    poetry = document.get("tool", {}).get("poetry", {})
    _require_poetry(found, poetry.get("dependencies", {}), "")
    _require_poetry(found, poetry.get("dev-dependencies", {}), " in group dev")
    for group, table in poetry.get("group", {}).items():
        _require_poetry(found, table.get("dependencies", {}), f" in group {group}")
    return found


def _require(found: _Declared, required: object, where: str) -> None:
    if not isinstance(required, list):
        # Text is a sequence of names of one letter, too.
        msg = f"{required!r} is no list"
        raise TypeError(msg)
    for line in required:
        requirement = Requirement(line)
        found[canonicalize_name(requirement.name)].add(_spelled(requirement) + where)


def _require_poetry(found: _Declared, required: Mapping[str, Any], where: str) -> None:
    for name, wanted in required.items():
        spelled = wanted if isinstance(wanted, str) else json.dumps(wanted, sort_keys=True)
        found[canonicalize_name(name)].add(_CREDENTIALS.sub("", spelled) + where)


def _spelled(requirement: Requirement) -> str:
    """Return what is required of a package, but for its name."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    url = f"@ {_CREDENTIALS.sub('', requirement.url)}" if requirement.url else ""
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{extras}{requirement.specifier or url or _ANY}{marker}"


def _requirements(text: str) -> _Declared:
    found = defaultdict[str, set[str]](set)
    for line in _CONTINUED.sub(" ", text).splitlines():
        wanted = _COMMENT.sub("", line).strip()
        if wanted:
            name, how = _required(wanted)
            found[name].add(how)
    return found


def _required(line: str) -> tuple[str, str]:
    """Return the name and the rest of a line of a requirements file; raise ValueError."""
    safe = _CREDENTIALS.sub("", line)
    # Hashes and build options change no version.
    wanted = re.split(r"\s+(?=--)", safe)[0]
    egg = _EGG.search(safe)
    if egg is not None:
        return canonicalize_name(egg[1]), wanted
    if line.startswith("-"):
        option, *value = re.split(r"[\s=]+", safe, maxsplit=1)
        return (safe, "") if option in _SEVERAL else (option, "".join(value))
    try:
        requirement = Requirement(wanted)
    except InvalidRequirement:
        if _PLACE.search(wanted):
            return wanted, ""
        raise
    return canonicalize_name(requirement.name), _spelled(requirement)


def _lock(text: str) -> _Declared:
    """Read what uv, poetry and pdm write, and PEP 751."""
    document, found = parse_toml(text), defaultdict[str, set[str]](set)
    for package in document.get("package", document.get("packages", [])):
        source = package.get("source", {})
        # The repository's own packages.
        if "directory" in package or not {"editable", "virtual"}.isdisjoint(source):
            continue
        commit = (
            source.get("git", "").partition("#")[2]
            or source.get("resolved_reference")
            or package.get("revision")
            or package.get("vcs", {}).get("commit-id")
        )
        version = str(package.get("version", _ANY))
        found[canonicalize_name(package["name"])].add(
            f"{version} at {commit[:_SHORT_ID]}" if commit else version
        )
    return found


def _conda(text: str) -> _Declared:
    import yaml

    try:
        document = yaml.safe_load(text) or {}
    except (yaml.YAMLError, IndexError) as error:
        raise ValueError(str(error)) from None
    found = defaultdict[str, set[str]](set)
    for entry in document.get("dependencies") or []:
        if isinstance(entry, dict):
            for line in entry.get("pip") or []:
                name, how = _required(line)
                found[name].add(f"{how} by pip")
        else:
            match = _CONDA.fullmatch(entry)
            if match is None:
                msg = f"{entry!r} names no package"
                raise ValueError(msg)
            found[match[1].lower()].add(match[2] or _ANY)
    return found


#: In the order in which they are told.
_FILES: Final[Mapping[str, Callable[[str], _Declared]]] = {
    "pyproject.toml": _pyproject,
    "requirements*.txt": _requirements,
    "constraints*.txt": _requirements,
    "uv.lock": _lock,
    "poetry.lock": _lock,
    "pdm.lock": _lock,
    "pylock.toml": _lock,
    "pylock.*.toml": _lock,
    "environment.yml": _conda,
    "environment.yaml": _conda,
}
