"""The code that a study's results were measured with, and what of it has changed since.

Python is compared by its meaning: comments, docstrings and layout do not count. Other files are
compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from pytest_autotune.study.digests import digest_of, meaning
from pytest_autotune.study.parts import PART_PREFIXES, part_now

#: No more files than this are named in a message.
_NAMED: Final = 3
#: Folders that hold no sources of the user, whatever a glob says.
_SKIPPED: Final = frozenset({".git", "__pycache__", "node_modules", ".tox", ".venv"})


#: Digests or versions by name.
Digests: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code of a study: digests by path below ``root``, which is pytest's rootdir.

    ``files`` are those that were imported, ``sources`` those that ``globs`` of the spec named.
    ``parts`` are digests or versions of what the server is made of, by a name for people.
    """

    root: Path
    globs: tuple[str, ...] = ()
    files: Digests = field(default_factory=dict)
    sources: Digests = field(default_factory=dict)
    parts: Digests = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, files: Digests, globs: tuple[str, ...] = ()) -> Code:
        """Return the code of a study that begins: ``files`` are those that its module imports."""
        return cls(root=root, globs=globs, files=files, sources=_sources(root, globs))

    @classmethod
    def from_document(cls, root: Path, document: Mapping[str, Any]) -> Code:
        """Return the code that :meth:`document` wrote."""
        return cls(root=root, **{**document, "globs": tuple(document["globs"])})

    def document(self) -> dict[str, Any]:
        """Return plain JSON types, without the root."""
        return {
            "globs": list(self.globs),
            "files": dict(sorted(self.files.items())),
            "sources": dict(sorted(self.sources.items())),
            "parts": dict(sorted(self.parts.items())),
        }

    def with_sources(self, now: Code) -> Code:
        """Return the code with the sources that the spec names now, where it named others."""
        if self.globs == now.globs:
            return self
        return replace(self, globs=now.globs, sources=now.sources)

    def digests_now(self) -> Digests:
        """Return the digest or version of everything as it is now, by name."""
        files = replace(self, files={**self.files, **self.sources}).files_now()
        found = {name: meaning(digest) for name, digest in files.items()} | self.parts_now()
        return {name: now for name, now in found.items() if now}

    def files_now(self) -> Digests:
        """Return the digests of the files as they are now, empty where one is gone."""
        return {name: digest_of(self.root / name, old) for name, old in self.files.items()}

    def parts_now(self) -> dict[str, str]:
        """Return the parts as they are now; of what nobody can tell, as they were."""
        return {name: part_now(name) or known for name, known in self.parts.items()}

    def has(self, files: Digests, parts: Digests) -> bool:
        """Return whether all of this is known, and the same."""
        known = {*self.files, *self.parts}
        return known >= {*files, *parts} and not self.differs_from(files, parts)

    def differs_from(self, files: Digests, parts: Digests) -> list[str]:
        """Return the names of what is known and not the same."""
        known = {**self.files, **self.parts}
        return [
            name
            for name, now in {**files, **parts}.items()
            if meaning(known.get(name, now)) != meaning(now)
        ]

    def with_more(self, files: Digests, parts: Digests) -> Code:
        """Return the code with what was found later; what is known already stays."""
        return Code(
            root=self.root,
            globs=self.globs,
            files={**files, **self.files},
            sources=self.sources,
            parts={**parts, **self.parts},
        )

    def changes(self, now: Code) -> list[str]:
        """Return the differences by name: a changed, a new or a missing file.

        The files are read again, and the server's parts are looked up. ``now`` has the sources,
        and the files that a study which begins now would start with.
        """
        added = {name: "" for name in now.files if name not in self.files}
        files = replace(self, files={**self.files, **added}).files_now()
        old, new = self.sources, now.sources
        if self.globs != now.globs:
            # A glob that was added says nothing of a change.
            old = {name: old[name] for name in old if name in new}
            new = {name: new[name] for name in old}
        parts = _replaced(self.parts, self.parts_now())
        return [*_changed(self.files, files), *_changed(old, new), *parts]


def changed_since(digests: Digests, root: Path) -> list[str]:
    """Return the names of changes since :meth:`Code.digests_now`."""
    found: list[str] = []
    for name, known in digests.items():
        if name.startswith(PART_PREFIXES):
            found += _replaced({name: known}, {name: part_now(name) or known})
        else:
            found += _changed({name: known}, {name: digest_of(root / name)})
    return found


def _changed(old: Digests, new: Digests) -> Iterator[str]:
    for name in sorted({**old, **new}):
        if meaning(old.get(name, "")) == meaning(new.get(name, "")):
            continue
        if not new.get(name):
            yield f"{name} (gone)"
        elif not old.get(name):
            yield f"{name} (new)"
        else:
            yield name


def _replaced(old: Digests, new: Digests) -> Iterator[str]:
    for name, known in old.items():
        if new[name] != known:
            yield f"{name} ({known} → {new[name]})"


def _sources(root: Path, globs: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern in globs:
        for path in root.glob(pattern):
            inside = path.relative_to(root)
            if path.is_file() and not _SKIPPED.intersection(inside.parts):
                found[inside.as_posix()] = digest_of(path)
    return found


def listed(names: Sequence[str]) -> str:
    """Return some of ``names`` for a message, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
