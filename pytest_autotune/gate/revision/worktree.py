"""The files of the old revision: a git worktree in a temporary folder.

A lock that the kernel releases with its holder protects it. The next run removes the worktrees of
runs that were killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_autotune.gate.revision.git import OPTION, RevisionError, message, run
from pytest_autotune.gate.revision.repository import Commit, Repository

#: Begins the names of temporary folders with worktrees, and of their locks.
_PREFIX: Final = "autotune-revision-"
_LOCKS: Final = "pytest-autotune"
_MUTEX: Final = "mutex"
_SUBMODULE_MODE: Final = "160000"


@contextmanager
def worktree(
    repository: Repository, commit: Commit, *, under: Path | None = None
) -> Iterator[Path]:
    """Check ``commit`` out into a temporary folder, which is removed at the end.

    It lies in ``under``, by default the system's temporary folder or another outside the
    repository. The checkout has the repository's own name, which may be that of a package.
    Submodules that the working tree has are fetched. Raises :class:`RevisionError`.
    """
    at = f"{OPTION} {commit.short}"
    try:
        held = _hold(at, repository, (under or _outside(repository.top)).resolve())
    except OSError as error:
        raise RevisionError(f"{at}: there is no place for its files: {error}") from None
    try:
        add = ("worktree", "add", "--detach", "--no-checkout", str(held.tree), commit.id)
        with _alone(held.lock.parent):
            _check(at, run(repository.top, *add))
        # A checkout takes long, so it does not hold the lock.
        _check(at, run(held.tree, "reset", "--hard", "--no-recurse-submodules", "--quiet"))
        _fetch_submodules(at, repository.top, held.tree)
        yield held.tree
    finally:
        held.give_up()


def _check(at: str, result: subprocess.CompletedProcess[bytes]) -> None:
    if result.returncode:
        raise RevisionError(f"{at}: git cannot check it out: {message(result)}")


def _outside(top: Path) -> Path:
    """Return a temporary folder that does not lie in the repository."""
    for name in (tempfile.gettempdir(), "/tmp", "/var/tmp", top.parent):  # noqa: S108 - a private one is made there
        folder = Path(name).resolve()
        if not folder.is_relative_to(top) and os.access(folder, os.W_OK):
            return folder
    raise RevisionError(
        f"{OPTION}: no temporary folder outside {top} can be written to; set TMPDIR to one"
    )


def _fetch_submodules(at: str, top: Path, tree: Path) -> None:
    if not (tree / ".gitmodules").is_file():
        return
    entries = os.fsdecode(run(tree, "ls-files", "--stage", "-z").stdout).split("\0")
    paths = [entry.partition("\t")[2] for entry in entries if entry.startswith(_SUBMODULE_MODE)]
    # Git leaves an empty folder for a submodule that nobody fetched.
    wanted = [p for p in paths if not (top / p).is_dir() or any((top / p).iterdir())]
    if wanted:
        update = ("submodule", "update", "--init", "--recursive", "--")
        _check(at, run(tree, *update, *wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A place for a worktree, and the lock that protects it while it is used."""

    top: Path
    tree: Path
    lock: Path
    descriptor: int

    def give_up(self) -> None:
        """Remove the worktree; the next run removes what cannot be removed now."""
        try:
            with _alone(self.lock.parent):
                _remove(self.top, self.tree, self.lock)
        finally:
            os.close(self.descriptor)


def _hold(at: str, repository: Repository, base: Path) -> _Held:
    """Make a place under ``base``, and remove places that no process holds any more.

    The locks lie in git's own folder: containers may share a repository, but not their temporary
    folders. Raises OSError.
    """
    found = run(repository.top, "rev-parse", "--git-common-dir")
    _check(at, found)
    locks = repository.top / os.fsdecode(found.stdout.rstrip(b"\n")) / _LOCKS
    locks.mkdir(exist_ok=True)
    with _alone(locks):
        _sweep(repository.top, locks)
        name = f"{_PREFIX}{uuid.uuid4().hex[:12]}"
        tree = base / name / (repository.top.name or "tree")
        lock = locks / name
        descriptor = _open(lock, os.O_CREAT | os.O_EXCL)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        os.write(descriptor, os.fsencode(tree))
        tree.parent.mkdir(mode=0o700, parents=True)
    except OSError:
        lock.unlink()
        os.close(descriptor)
        raise
    return _Held(top=repository.top, tree=tree, lock=lock, descriptor=descriptor)


@contextmanager
def _alone(locks: Path) -> Iterator[None]:
    """Keep other runs from making or removing worktrees of this repository.

    Git fails on files that another git has half written. A lock that was made and is not held yet
    looks like that of a dead run.
    """
    mutex = _open(locks / _MUTEX, os.O_CREAT)
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        yield
    finally:
        os.close(mutex)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)


def _sweep(top: Path, locks: Path) -> None:
    """Remove the worktrees of runs that were killed."""
    for lock in sorted(locks.glob(f"{_PREFIX}*")):
        with suppress(OSError, ValueError):
            descriptor = _open(lock)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tree = Path(os.fsdecode(lock.read_bytes()))
                # The lock is empty if its run was killed before it made the folder.
                _remove(top, tree if tree.parent.name == lock.name else None, lock)
            finally:
                os.close(descriptor)


def _remove(top: Path, tree: Path | None, lock: Path) -> None:
    if tree is not None:
        # The second --force removes a worktree that a killed `git worktree add` has locked.
        remove = ("worktree", "remove", "--force", "--force", str(tree))
        if run(top, *remove).returncode:
            # Git removes a missing worktree, but not a damaged one.
            shutil.rmtree(tree, ignore_errors=True)
            run(top, *remove)
        shutil.rmtree(tree.parent, ignore_errors=True)
    if tree is None or not tree.parent.exists():
        lock.unlink(missing_ok=True)
