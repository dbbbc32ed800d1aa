"""Questions to the git repository: its revisions, and files as they were."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_autotune.gate.revision.git import OPTION, RevisionError, git, lines, message, run
from pytest_autotune.gate.revision.imports import relative
from pytest_autotune.text.suggest import did_you_mean, nearest

#: A longer list of names helps nobody.
_LISTED_NAMES: Final = 12
_OBJECT_ID: Final = re.compile(r"[0-9a-f]{40,64}")
#: Git's line before a file's content, with its size in bytes.
_BLOB: Final = re.compile(rb"[0-9a-f]{40,64} blob (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit. ``dirty`` is true where files of the working tree differ from it."""

    id: str
    short: str
    subject: str
    dirty: bool = False


def describe(folder: Path) -> Commit | None:
    """Return the commit that is checked out in the repository around ``folder``.

    None if there is no repository, no commit or no git. Raises nothing.
    """
    try:
        status = git(folder, "status", "--porcelain", "--untracked-files=normal")
        if status.returncode:
            return None
        return _commit(folder, "HEAD", dirty=bool(status.stdout.strip()))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Repository:
    """A git repository with a working tree; ``top`` is its topmost folder, resolved."""

    top: Path

    @classmethod
    def find(cls, folder: Path) -> Repository:
        """Return the repository that ``folder`` lies in; raise :class:`RevisionError`."""
        found = run(folder, "rev-parse", "--show-toplevel")
        if found.returncode == 0:
            return cls(Path(os.fsdecode(found.stdout.rstrip(b"\n"))).resolve())
        said = message(found)
        if "dubious ownership" in said or "unsafe repository" in said:
            # What to do about it is in git's own words.
            msg = f"{OPTION} reads the git repository of {folder}, which git refuses: {said}"
        else:
            msg = (
                f"{OPTION} needs a git repository to take the old revision from, "
                f"and {folder} lies in none; git says: {said}"
            )
        raise RevisionError(msg)

    def resolve(self, rev: str) -> Commit:
        """Return the commit that ``rev`` names; raise :class:`RevisionError`."""
        at = f"{OPTION} {rev!r}"
        if not rev or rev.startswith(("-", "^")) or "\0" in rev:
            raise RevisionError(f"{at}: this is no revision; give a branch, a tag or a commit")
        found = run(self.top, "rev-parse", "--verify", rev)
        said, name = message(found), found.stdout.decode().strip()
        if "is ambiguous" in said:
            raise RevisionError(
                f"{at}: ambiguous; write refs/heads/NAME, refs/tags/NAME or more of the commit's "
                f"id; git says: {said}"
            )
        kind = ""
        if _OBJECT_ID.fullmatch(name):
            # A full id is taken for one without a look at what there is, and a tag may be of
            # anything.
            kind = run(self.top, "cat-file", "-t", f"{name}^{{}}").stdout.decode().strip()
        if not kind:
            raise RevisionError(f"{at}: {self._unknown(rev)}")
        commit = _commit(self.top, f"{name}^{{commit}}") if kind == "commit" else None
        if commit is None:
            raise RevisionError(
                f"{at}: this is a {kind}, no commit; give a branch, a tag or a commit"
            )
        return commit

    def file_at(self, commit: Commit, path: Path) -> str | None:
        """Return a file's text as it was in ``commit``, None if it has no such file.

        ``path`` is relative to ``top``, or absolute. Symbolic links are followed within the commit;
        bytes that are not UTF-8 become U+FFFD.
        """
        inside = relative(self.top / path, self.top)
        if inside is None or "\n" in str(inside):
            return None
        found = run(
            self.top, "cat-file", "--batch", "--follow-symlinks",
            stdin=os.fsencode(f"{commit.id}:{inside.as_posix()}\n"),
        )  # fmt: skip
        if found.returncode:
            raise RevisionError(f"{OPTION} {commit.short}: git cannot read it: {message(found)}")
        header, _, content = found.stdout.partition(b"\n")
        size = _BLOB.fullmatch(header)
        return None if size is None else content[: int(size[1])].decode("utf-8", "replace")

    def files_changed_since(
        self, commit: Commit, folder: Path, patterns: Sequence[str]
    ) -> set[Path]:
        """Return the files in ``folder`` that differ from ``commit``, relative to ``top``.

        ``patterns`` are git's, relative to ``folder``. Files that git ignores are left out.
        """
        differing = ("diff", "--name-only", "--no-renames", "-z", commit.id)
        untracked = ("ls-files", "--others", "--exclude-standard", "--full-name", "-z")
        found = (run(folder, *command, "--", *patterns) for command in (differing, untracked))
        return {Path(os.fsdecode(n)) for f in found for n in f.stdout.split(b"\0") if n}

    def _unknown(self, rev: str) -> str:
        """Return a message about an unknown revision, with advice on how to get it."""
        listed = lines(self.top, "for-each-ref", "--format=%(refname:lstrip=2)")
        names = [name for name in listed if not name.endswith("/HEAD")]
        remotes = lines(self.top, "remote")
        base = re.split(r"[~^:@]", rev, maxsplit=1)[0]
        there = next((f"{r}/{base}" for r in remotes if f"{r}/{base}" in names), "")
        remote, _, branch = base.partition("/")
        words = [f"there is no such revision in {self.top}"]
        begun = base != rev and lines(self.top, "rev-parse", "--verify", "--quiet", base) != []
        if begun:
            words[0] += f", though there is {base!r}"
        elif there:
            words[0] += f" (did you mean {there!r}?)"
        elif len(names) <= _LISTED_NAMES:
            words[0] += nearest(base, names)
        else:
            words[0] += did_you_mean(base, names)
        if remote in remotes and branch and not begun:
            # With the name under which to keep it: clones of one branch keep no other by
            # themselves.
            fetch = f"git fetch {remote} {branch}:refs/remotes/{remote}/{branch}"
            words.append(f"fetch it with `{fetch}`")
        if lines(self.top, "rev-parse", "--is-shallow-repository") == ["true"]:
            words.append(
                "this clone is shallow: fetch its history with `git fetch --unshallow`, "
                "or in GitHub Actions give actions/checkout `fetch-depth: 0`"
            )
        return "; ".join(words)


def _commit(folder: Path, rev: str, *, dirty: bool = False) -> Commit | None:
    found = git(folder, "log", "-1", "--format=%H%x00%h%x00%s", rev, "--")
    fields = found.stdout.decode("utf-8", "replace").rstrip("\n").split("\0")
    if found.returncode or len(fields) != len(("id", "short", "subject")):
        return None
    return Commit(id=fields[0], short=fields[1], subject=fields[2], dirty=dirty)
