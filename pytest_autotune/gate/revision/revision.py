"""The old revision that a gate compares with: found, checked out beside ours, and imported.

Its files are a git worktree in a temporary folder, held by a lock that the kernel gives up with
its holder. What a killed run leaves is removed by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import UserError
from pytest_autotune.system.toml import parse_toml
from pytest_autotune.text.suggest import did_you_mean, nearest

_OPTION: Final = "--autotune-against"
#: Of the temporary folders that worktrees lie in, and of the folder for their locks.
_PREFIX: Final = "autotune-revision-"
_LOCKS: Final = "pytest-autotune"
_MUTEX: Final = "mutex"
#: More names than these tell nobody anything.
_LISTED_NAMES: Final = 12
#: What a git hook sets for the git commands in it, and what would override where we look.
_ASTRAY: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_SETTINGS: Final = (
    f"core.hooksPath={os.devnull}",
    "core.disambiguate=committish",
    "core.warnAmbiguousRefs=true",
    "i18n.logOutputEncoding=UTF-8",
    "log.showSignature=false",
)
_OBJECT_ID: Final = re.compile(r"[0-9a-f]{40,64}")
#: What git says before a file's content, of a file's size in bytes.
_BLOB: Final = re.compile(rb"[0-9a-f]{40,64} blob (\d+)")
_SUBMODULE_MODE: Final = "160000"
#: Where installed code lies, as opposed to a repository's own.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages", "__pypackages__"})


class RevisionError(UserError):
    """The old revision cannot be had; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit. ``dirty`` is true of what is worked on: there are changes not in the commit."""

    id: str
    short: str
    subject: str
    dirty: bool = False


def describe(folder: Path) -> Commit | None:
    """Return what is checked out in the repository that ``folder`` lies in.

    None where that is no repository, has no commit, or git is missing. Raises nothing.
    """
    try:
        status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
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
        found = _run(folder, "rev-parse", "--show-toplevel")
        if found.returncode == 0:
            return cls(Path(os.fsdecode(found.stdout.rstrip(b"\n"))).resolve())
        said = _said(found)
        if "dubious ownership" in said or "unsafe repository" in said:
            # What to do about it is in git's own words.
            msg = f"{_OPTION} reads the git repository of {folder}, which git refuses: {said}"
        else:
            msg = (
                f"{_OPTION} needs a git repository to take the old revision from, "
                f"and {folder} lies in none; git says: {said}"
            )
        raise RevisionError(msg)

    def resolve(self, rev: str) -> Commit:
        """Return the commit that ``rev`` names; raise :class:`RevisionError`."""
        at = f"{_OPTION} {rev!r}"
        if not rev or rev.startswith(("-", "^")) or "\0" in rev:
            msg = f"{at}: this is no revision; give a branch, a tag or a commit"
            raise RevisionError(msg)
        found = _run(self.top, "rev-parse", "--verify", rev)
        said, name = _said(found), found.stdout.decode().strip()
        if "is ambiguous" in said:
            msg = (
                f"{at}: ambiguous; write refs/heads/NAME, refs/tags/NAME or more of the commit's "
                f"id; git says: {said}"
            )
            raise RevisionError(msg)
        kind = ""
        if _OBJECT_ID.fullmatch(name):
            # A full id is taken for one without a look at what there is, and a tag may be of
            # anything.
            kind = _run(self.top, "cat-file", "-t", f"{name}^{{}}").stdout.decode().strip()
        if not kind:
            raise RevisionError(f"{at}: {self._unknown(rev)}")
        commit = _commit(self.top, f"{name}^{{commit}}") if kind == "commit" else None
        if commit is None:
            msg = f"{at}: this is a {kind}, no commit; give a branch, a tag or a commit"
            raise RevisionError(msg)
        return commit

    def file_at(self, commit: Commit, path: Path) -> str | None:
        """Return a file's text as it was in ``commit``, None where that has no such file.

        ``path`` is relative to ``top``, or absolute. Symbolic links are followed within the commit;
        bytes that are not UTF-8 become U+FFFD.
        """
        inside = _relative(self.top / path, self.top)
        if inside is None or "\n" in str(inside):
            return None
        found = _run(
            self.top, "cat-file", "--batch", "--follow-symlinks",
            stdin=os.fsencode(f"{commit.id}:{inside.as_posix()}\n"),
        )  # fmt: skip
        if found.returncode:
            raise RevisionError(f"{_OPTION} {commit.short}: git cannot read it: {_said(found)}")
        header, _, content = found.stdout.partition(b"\n")
        size = _BLOB.fullmatch(header)
        return None if size is None else content[: int(size[1])].decode("utf-8", "replace")

    def names_at(self, commit: Commit, folder: Path) -> list[str]:
        """Return the names in a folder as it was in ``commit``; none where it was not there."""
        inside = _relative(self.top / folder, self.top)
        if inside is None:
            return []
        place = "" if inside == Path() else inside.as_posix()
        found = _run(self.top, "ls-tree", "-z", "--name-only", f"{commit.id}:{place}")
        return [os.fsdecode(name) for name in found.stdout.split(b"\0") if name]

    def ignores(self, path: Path) -> bool:
        """Tell whether git is told to ignore a file of the working tree."""
        return _run(self.top, "check-ignore", "--quiet", str(path)).returncode == 0

    def _unknown(self, rev: str) -> str:
        """Say that there is no such revision, and where it could be had."""
        listed = _lines(self.top, "for-each-ref", "--format=%(refname:lstrip=2)")
        names = [name for name in listed if not name.endswith("/HEAD")]
        remotes = _lines(self.top, "remote")
        base = re.split(r"[~^:@]", rev, maxsplit=1)[0]
        there = next((f"{r}/{base}" for r in remotes if f"{r}/{base}" in names), "")
        remote, _, branch = base.partition("/")
        said = [f"there is no such revision in {self.top}"]
        begun = base != rev and _lines(self.top, "rev-parse", "--verify", "--quiet", base) != []
        if begun:
            said[0] += f", though there is {base!r}"
        elif there:
            said[0] += f" (did you mean {there!r}?)"
        elif len(names) <= _LISTED_NAMES:
            said[0] += nearest(base, names)
        else:
            said[0] += did_you_mean(base, names)
        if remote in remotes and branch and not begun:
            # With the name under which to keep it: clones of one branch keep no other by
            # themselves.
            fetch = f"git fetch {remote} {branch}:refs/remotes/{remote}/{branch}"
            said.append(f"fetch it with `{fetch}`")
        if _lines(self.top, "rev-parse", "--is-shallow-repository") == ["true"]:
            said.append(
                "this clone is shallow: fetch its history with `git fetch --unshallow`, "
                "or in GitHub Actions give actions/checkout `fetch-depth: 0`"
            )
        return "; ".join(said)


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in ``folder``; raise OSError where it cannot be run."""
    environment = {name: value for name, value in os.environ.items() if name not in _ASTRAY}
    # Its words are looked at. It must neither ask anybody, nor keep those who work from writing.
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    return subprocess.run(  # noqa: S603 - argv, no shell
        ["git", "-C", str(folder), *settings, *arguments],  # noqa: S607 - the user's git
        input=stdin,
        capture_output=True,
        check=False,
        env=environment,
    )


def _run(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in ``folder``; raise :class:`RevisionError` where it cannot be run."""
    try:
        return _git(folder, *arguments, stdin=stdin)
    except OSError as error:
        msg = f"{_OPTION} needs git, which cannot be run here ({error.strerror}); install it"
        raise RevisionError(msg) from None


def _lines(folder: Path, *arguments: str) -> list[str]:
    return _run(folder, *arguments).stdout.decode("utf-8", "replace").splitlines()


def _said(result: subprocess.CompletedProcess[bytes]) -> str:
    """Return what git said, on one line."""
    text = " ".join(result.stderr.decode("utf-8", "replace").split())
    return text.removeprefix("fatal: ") or f"nothing, but ended with status {result.returncode}"


def _commit(folder: Path, rev: str, *, dirty: bool = False) -> Commit | None:
    found = _git(folder, "log", "-1", "--format=%H%x00%h%x00%s", rev, "--")
    fields = found.stdout.decode("utf-8", "replace").rstrip("\n").split("\0")
    if found.returncode or len(fields) != len(("id", "short", "subject")):
        return None
    return Commit(id=fields[0], short=fields[1], subject=fields[2], dirty=dirty)


@contextmanager
def worktree(
    repository: Repository, commit: Commit, *, under: Path | None = None
) -> Iterator[Path]:
    """Check ``commit`` out into a temporary folder, removed at the end.

    ``under`` is where to make it, else the system's folder for such, if that is outside the
    repository. The checkout has the repository's own name, as that may be a package's. Submodules
    are fetched, but for those that the working tree does without. Raises :class:`RevisionError`.
    """
    at = f"{_OPTION} {commit.short}"
    try:
        held = _hold(at, repository, (under or _outside(repository.top)).resolve())
    except OSError as error:
        msg = f"{at}: there is no place for its files: {error}"
        raise RevisionError(msg) from None
    try:
        add = ("worktree", "add", "--detach", "--no-checkout", str(held.tree), commit.id)
        with _alone(held.lock.parent):
            _check(at, _run(repository.top, *add))
        # As git does itself without that option. It may take long, so others need not wait for it.
        _check(at, _run(held.tree, "reset", "--hard", "--no-recurse-submodules", "--quiet"))
        _fetch_submodules(at, repository.top, held.tree)
        yield held.tree
    finally:
        held.give_up()


def _check(at: str, result: subprocess.CompletedProcess[bytes]) -> None:
    if result.returncode:
        msg = f"{at}: git cannot check it out: {_said(result)}"
        raise RevisionError(msg)


def _outside(top: Path) -> Path:
    """Return a temporary folder that does not lie in the repository."""
    for name in (tempfile.gettempdir(), "/tmp", "/var/tmp", top.parent):  # noqa: S108 - a private one is made there
        folder = Path(name).resolve()
        if not folder.is_relative_to(top) and os.access(folder, os.W_OK):
            return folder
    msg = f"{_OPTION}: no temporary folder outside {top} can be written to; set TMPDIR to one"
    raise RevisionError(msg)


def _fetch_submodules(at: str, top: Path, tree: Path) -> None:
    if not (tree / ".gitmodules").is_file():
        return
    entries = os.fsdecode(_run(tree, "ls-files", "--stage", "-z").stdout).split("\0")
    paths = [entry.partition("\t")[2] for entry in entries if entry.startswith(_SUBMODULE_MODE)]
    wanted = [path for path in paths if not _is_empty_folder(top / path)]
    if wanted:
        update = ("submodule", "update", "--init", "--recursive", "--")
        _check(at, _run(tree, *update, *wanted))


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A place for a worktree, and the lock that says who still needs it."""

    top: Path
    tree: Path
    lock: Path
    descriptor: int

    def give_up(self) -> None:
        """Remove the worktree; what cannot be removed is left to the next run."""
        try:
            with _alone(self.lock.parent):
                _remove(self.top, self.tree, self.lock)
        finally:
            os.close(self.descriptor)


def _hold(at: str, repository: Repository, base: Path) -> _Held:
    """Make a place under ``base``, after those that nobody holds any more are cleared away.

    The locks lie where git registers worktrees, as containers may share a repository and not
    their temporary folders. Raises OSError.
    """
    found = _run(repository.top, "rev-parse", "--git-common-dir")
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
    """Let no other run make or remove a worktree of this repository meanwhile.

    Git reads what another git has half written, and gives up. And between its making and its
    locking, a lock looks like a dead run's.
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
                # An empty one was killed before it made anything.
                _remove(top, tree if tree.parent.name == lock.name else None, lock)
            finally:
                os.close(descriptor)


def _remove(top: Path, tree: Path | None, lock: Path) -> None:
    if tree is not None:
        # Twice: although it is locked by a `git worktree add` that was killed.
        remove = ("worktree", "remove", "--force", "--force", str(tree))
        if _run(top, *remove).returncode:
            # It takes away one that is missing, but none that is damaged.
            shutil.rmtree(tree, ignore_errors=True)
            _run(top, *remove)
        shutil.rmtree(tree.parent, ignore_errors=True)
    if tree is None or not tree.parent.exists():
        lock.unlink(missing_ok=True)


def map_path(path: Path, top: Path, tree: Path) -> Path:
    """Return where a path inside ``top`` lies in the worktree ``tree``; others as they are."""
    inside = None if _relative(path, tree) is not None else _relative(path, top)
    return path if inside is None else tree / inside


def mapped_import_path(entries: Sequence[str], top: Path, tree: Path, keep: Path) -> list[str]:
    """Return what the entries of ``sys.path`` that lie in ``top`` are in the worktree ``tree``.

    For the ``PYTHONPATH`` of a process that is to import the old revision. Left out are entries
    outside ``top``, those of installed packages, and the one that the package at ``keep`` is
    imported from. An empty entry is the current folder. ``tree`` may be ``top`` itself.
    """
    kept = keep.resolve().parent
    elsewhere = tree != top
    found: dict[str, None] = {}
    for entry in entries:
        path = Path(entry)
        if path.resolve() == kept or (elsewhere and _relative(path, tree) is not None):
            continue
        inside = _relative(path, top)
        if inside is not None and not _is_installed(top, inside):
            found[str(tree / inside)] = None
    return list(found)


def editable_roots() -> list[str]:
    """Return the folders that editable installs with an import hook import packages from.

    Of setuptools, and of hatchling and others that use ``editables``. Both hooks stand at the end
    of ``sys.meta_path``, so a folder in ``PYTHONPATH`` wins over them. A package that has another
    name than its folder can be imported from no folder, and is left out.
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
    """Yield packages with the file or folder that a hook takes them from."""
    if isinstance(table, Mapping):
        for package, places in table.items():
            for place in [places] if isinstance(places, str | os.PathLike) else places:
                yield str(package), os.fspath(place)


def installed_copies(top: Path, folders: Iterable[Path]) -> list[Path]:
    """Return where what this interpreter has installed of the repository at ``top`` lies.

    That is by where it was installed from, or by a project's name in one of ``folders``. Editable
    installs are no copies.
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
        own = source.scheme == "file" and _relative(place, top) is not None
        name = distribution.metadata["Name"] or ""
        if not own and _canonical(name) not in names:
            continue
        for file in distribution.files or ():
            first = file.parts[0]
            # Metadata, scripts and the path files of older editable installs are no code.
            if first != ".." and not first.endswith((".dist-info", ".egg-info", ".pth")):
                found[Path(str(distribution.locate_file(first)))] = None
    return [place for place in found if place.is_dir() or place.suffix == ".py"]


def _project_names(folder: Path) -> Iterator[str]:
    try:
        document = parse_toml((folder / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return
    project = document.get("project")
    name = project.get("name") if isinstance(project, Mapping) else None
    if isinstance(name, str):
        yield name


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def strays(files: Iterable[str], top: Path, tree: Path, keep: Path) -> list[str]:
    """Return which modules' files a process meant for ``tree`` took from ``top`` instead.

    With any of them, the new code would be compared with itself. Installed packages and the
    package at ``keep`` are the same for both revisions.
    """
    found: dict[str, None] = {}
    for file in files:
        path = Path(file)
        # A frozen module has no file, whatever it says of one.
        if not path.is_absolute() and not path.is_file():
            continue
        if _relative(path, tree) is not None or _relative(path, keep) is not None:
            continue
        inside = _relative(path, top)
        if inside is not None and not _is_installed(top, inside):
            found[file] = None
    return list(found)


def _relative(path: Path, folder: Path) -> Path | None:
    """Return ``path`` relative to ``folder``, None if it is not inside.

    A link inside is inside, wherever it leads, and so is what a link elsewhere leads to.
    """
    for place in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100 - keeps links
        for base in (folder, folder.resolve()):
            if place.is_relative_to(base):
                return place.relative_to(base)
    return None


def _is_installed(top: Path, inside: Path) -> bool:
    """Tell whether a path in ``top`` lies in an environment there, or among its packages."""
    if not _INSTALLED.isdisjoint(inside.parts):
        return True
    # A path to the interpreter's own library may lie in the repository, too, and the repository
    # in the interpreter's prefix: /usr/src in /usr.
    prefixes = {Path(sys.prefix), Path(sys.exec_prefix), Path(sysconfig.get_paths()["stdlib"])}
    folders = [top / inside, *(top / parent for parent in inside.parents)]
    return any(
        folder in prefixes or (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()
        for folder in folders
        if folder != top
    )
