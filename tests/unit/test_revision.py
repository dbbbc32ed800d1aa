"""Finding the old revision, checking it out beside ours, and importing it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from builders import isolate_git

from pytest_autotune.gate.revision.git import RevisionError
from pytest_autotune.gate.revision.imports import (
    editable_roots,
    installed_copies,
    map_path,
    mapped_import_path,
    strays,
)
from pytest_autotune.gate.revision.repository import Commit, Repository, describe
from pytest_autotune.gate.revision.worktree import worktree

#: Holds a worktree of HEAD until its input ends, or it is killed.
_HOLDER = """
import sys
from pathlib import Path
from pytest_autotune.gate.revision.repository import Repository
from pytest_autotune.gate.revision.worktree import worktree
repository = Repository.find(Path(sys.argv[1]))
with worktree(repository, repository.resolve("HEAD"), under=Path(sys.argv[2])) as tree:
    print(tree, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep git from this machine's settings, and from repositories around the tests."""
    isolate_git(monkeypatch)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))


def git(folder: Path, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True, input=text, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def commit(top: Path, subject: str, **files: str) -> str:
    """Commit files, of which a name's ``__`` is a slash and its ``_`` a dot; return the id."""
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--allow-empty", "--message", subject)
    return git(top, "rev-parse", "HEAD")


def init(top: Path) -> Path:
    git(top.parent, "init", "--quiet", "--initial-branch=main", str(top))
    return top.resolve()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A repository of two commits: kernel.py is old in the first, new in the second."""
    folder = init(tmp_path / "project")
    commit(folder, "The first", kernel_py="V = 'old'\n", sub__inner_txt="old\n")
    commit(folder, "The second: ¼ faster", kernel_py="V = 'new'\n")
    return folder


@pytest.fixture
def repository(top: Path) -> Repository:
    return Repository.find(top)


def worktrees(top: Path) -> list[str]:
    """Return the worktrees that git knows of, beside the main one."""
    listed = git(top, "worktree", "list", "--porcelain").splitlines()
    return [line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")][1:]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(top: Path) -> list[str]:
    """Return all that worktrees have left, in git and in temporary folders."""
    locks = [path.name for path in (top / ".git" / "pytest-autotune").glob("[!m]*")]
    return worktrees(top) + locks + names(Path(tempfile.gettempdir()))


# What is checked out


def test_a_commit_is_described(top: Path) -> None:
    head = git(top, "rev-parse", "HEAD")
    short = git(top, "rev-parse", "--short", "HEAD")
    expected = Commit(id=head, short=short, subject="The second: ¼ faster", dirty=False)
    assert describe(top) == describe(top / "sub") == expected


@pytest.mark.parametrize("name", ["kernel.py", "untracked.json", "sub/untracked.cu"])
def test_a_tree_with_changes_is_dirty(top: Path, name: str) -> None:
    git(top, "config", "status.showUntrackedFiles", "no")
    (top / name).write_text("changed")
    found = describe(top / "sub")
    assert found is not None
    assert found.dirty


def test_what_git_ignores_makes_nothing_dirty(top: Path) -> None:
    (top / ".pytest_cache").mkdir()
    (top / ".pytest_cache" / ".gitignore").write_text("*\n")
    (top / ".pytest_cache" / "lastfailed").write_text("{}")
    found = describe(top)
    assert found is not None
    assert not found.dirty


def test_describing_leaves_the_index_alone(top: Path) -> None:
    index = top / ".git" / "index"
    # A file of another time makes `git status` renew the index.
    os.utime(top / "kernel.py", (1, 1))
    before = index.read_bytes()
    describe(top)
    assert index.read_bytes() == before


def test_what_cannot_be_described_is_none(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe(tmp_path) is None
    assert describe(tmp_path / "missing") is None
    assert describe(init(tmp_path / "empty")) is None
    assert describe(top / ".git") is None
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert describe(top) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe(top) is None


# The repository


def test_a_repository_is_found_from_within(top: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(top)
    assert Repository.find(tmp_path / "link" / "sub").top == top


def test_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match=r"--autotune-against needs a git repository .*") as e:
        Repository.find(tmp_path)
    assert str(tmp_path) in str(e.value)
    assert "not a git repository" in str(e.value)


def test_without_git_is_an_error(
    top: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevisionError, match=r"--autotune-against needs git, .* install it"):
        Repository.find(top)
    with pytest.raises(RevisionError, match=r"--autotune-against needs git, .* install it"):
        repository.resolve("main")


def test_a_repository_of_somebody_else_is_an_error_with_what_helps(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(RevisionError) as caught:
        Repository.find(top)
    said = str(caught.value)
    assert "git refuses: detected dubious ownership" in said
    assert f"git config --global --add safe.directory {top}" in said
    assert "lies in none" not in said


# Revisions


@pytest.mark.parametrize("rev", ["HEAD~1", "v1", "annotated", "refs/tags/v1", ":/The first"])
def test_a_revision_is_resolved(top: Path, repository: Repository, rev: str) -> None:
    git(top, "tag", "v1", "HEAD~1")
    git(top, "tag", "--annotate", "annotated", "HEAD~1", "--message", "no subject")
    (top / "kernel.py").write_text("dirty")
    first = git(top, "rev-parse", "HEAD~1")
    found = repository.resolve(rev)
    assert found == Commit(id=first, short=found.short, subject="The first", dirty=False)
    assert first.startswith(found.short)
    assert 4 <= len(found.short) < 20
    assert repository.resolve(first[:7]) == repository.resolve(first) == found


def failure(repository: Repository, rev: str) -> str:
    with pytest.raises(RevisionError) as caught:
        repository.resolve(rev)
    said = str(caught.value)
    assert said.startswith(f"--autotune-against {rev!r}: ")
    return said


def test_an_unknown_revision_comes_with_what_there_is(top: Path, repository: Repository) -> None:
    git(top, "branch", "feature")
    git(top, "tag", "v1.0")
    assert failure(repository, "featrue").endswith(
        f"there is no such revision in {top} (did you mean 'feature'?); known: feature, main, v1.0"
    )


def test_of_many_names_only_the_nearest_is_told(top: Path, repository: Repository) -> None:
    for number in range(20):
        git(top, "branch", f"feature-{number}")
    said = failure(repository, "feature_7")
    assert "(did you mean 'feature-7'?)" in said
    assert "feature-11" not in said


def test_history_that_ends_too_early_is_told(repository: Repository) -> None:
    for base in ("main", "HEAD", repository.resolve("HEAD").short):
        assert failure(repository, f"{base}~5").endswith(f", though there is {base!r}")
    assert "though" not in failure(repository, "absent~5")


@pytest.mark.parametrize("rev", ["", "-h", "--all", "--git-dir", "^main", "main\0"])
def test_what_is_no_name_is_no_revision(repository: Repository, rev: str) -> None:
    assert failure(repository, rev).endswith(
        "this is no revision; give a branch, a tag or a commit"
    )


@pytest.mark.parametrize("rev", ["main..HEAD", "main HEAD", "0" * 40, "f" * 40, "main^{tag}"])
def test_what_leads_nowhere_is_unknown(repository: Repository, rev: str) -> None:
    assert "there is no such revision" in failure(repository, rev)


@pytest.mark.parametrize(
    ("rev", "kind"),
    [("HEAD:kernel.py", "blob"), ("HEAD^{tree}", "tree"), ("HEAD:sub", "tree"), ("file", "blob")],
)
def test_what_is_no_commit_is_told(top: Path, repository: Repository, rev: str, kind: str) -> None:
    git(top, "tag", "--annotate", "file", "HEAD:kernel.py", "--message", "a file")
    assert f"this is a {kind}, no commit" in failure(repository, rev)


def test_a_name_of_two_things_is_ambiguous(top: Path, repository: Repository) -> None:
    git(top, "config", "core.warnAmbiguousRefs", "false")
    git(top, "tag", "twice", "HEAD~1")
    git(top, "branch", "twice", "HEAD")
    said = failure(repository, "twice")
    assert "ambiguous; write refs/heads/NAME, refs/tags/NAME" in said
    assert repository.resolve("refs/heads/twice").subject == "The second: ¼ faster"
    assert repository.resolve("refs/tags/twice").subject == "The first"


def objects_of_one_prefix(top: Path, *kinds: str) -> str:
    """Make an object of each kind whose ids begin with the same digits, and return these."""
    tree = git(top, "rev-parse", "HEAD^{tree}")
    person = "Tester <tester@example.org> 0 +0000"
    seen: dict[str, dict[int, bytes]] = {}
    for number in itertools.count():
        for place, kind in enumerate(kinds):
            text = f"{place} {number}\n"
            if kind == "commit":
                text = f"tree {tree}\nauthor {person}\ncommitter {person}\n\n{text}"
            content = text.encode()
            digest = hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(content), content))  # noqa: S324 - git's own
            alike = seen.setdefault(digest.hexdigest()[:4], {})
            alike[place] = content
            if len(alike) == len(kinds):
                for index, found in alike.items():
                    git(
                        top, "hash-object", "-t", kinds[index], "-w", "--stdin",
                        text=found.decode(),
                    )  # fmt: skip
                return digest.hexdigest()[:4]
    raise AssertionError


def test_too_few_digits_are_ambiguous(top: Path, repository: Repository) -> None:
    said = failure(repository, objects_of_one_prefix(top, "commit", "commit"))
    assert "more of the commit's id" in said
    assert "The candidates are" in said


def test_digits_that_begin_one_commit_are_not_ambiguous(top: Path, repository: Repository) -> None:
    digits = objects_of_one_prefix(top, "commit", "blob")
    assert repository.resolve(digits).id.startswith(digits)


def clone(top: Path, *options: str) -> Path:
    folder = top.parent / "clone"
    git(top, "clone", "--quiet", *options, top.as_uri(), str(folder))
    return folder.resolve()


def test_a_branch_of_a_remote_is_fetched_by_what_is_told(top: Path) -> None:
    git(top, "branch", "team/feature", "HEAD~1")
    folder = clone(top, "--single-branch")
    repository = Repository.find(folder)
    said = failure(repository, "origin/team/feature")
    assert "shallow" not in said
    command = said.partition("fetch it with `")[2].partition("`")[0]
    assert command.startswith("git fetch origin team/feature")
    git(folder, *command.split()[1:])
    assert repository.resolve("origin/team/feature").subject == "The first"
    assert "git fetch" not in failure(repository, "elsewhere/main")


def test_a_branch_that_only_the_remote_has_is_found(top: Path) -> None:
    git(top, "branch", "stable", "HEAD~1")
    assert "(did you mean 'origin/stable'?)" in failure(Repository.find(clone(top)), "stable")


def test_a_shallow_clone_is_told_how_to_get_its_history(top: Path) -> None:
    first = git(top, "rev-parse", "HEAD~1")
    repository = Repository.find(clone(top, "--depth=1"))
    for rev in ("HEAD~1", "v1", first):
        said = failure(repository, rev)
        assert "`git fetch --unshallow`" in said
        assert "`fetch-depth: 0`" in said
    git(repository.top, "fetch", "--quiet", "--unshallow")
    assert repository.resolve("HEAD~1").id == first


# Files of a commit


def test_files_are_read_as_they_were(top: Path, repository: Repository) -> None:
    (top / "link").symlink_to("sub/inner.txt")
    (top / "out").symlink_to("/etc/passwd")
    (top / "raw").write_bytes(b"a\r\n\xff")
    (top / "x blob 3").mkdir()
    commit(top, "The third", sub__deep__ü_txt="deep\n", empty="")
    (top / "kernel.py").write_text("uncommitted")
    old, new = repository.resolve("HEAD~2"), repository.resolve("HEAD")

    def read(at: Commit, path: str | Path) -> str | None:
        return repository.file_at(at, Path(path))

    assert read(old, "kernel.py") == "V = 'old'\n"
    assert read(new, "kernel.py") == read(new, top / "kernel.py") == "V = 'new'\n"
    assert read(new, "sub/../kernel.py") == "V = 'new'\n"
    assert read(new, top.parent / "project" / "sub" / "deep" / "ü.txt") == "deep\n"
    assert read(new, "link") == "old\n"
    assert read(new, "raw") == "a\r\n\N{REPLACEMENT CHARACTER}"
    assert read(new, "empty") == ""
    for absent in ("empty.txt", "sub", ".", "out", "..", "/etc/passwd", "a\nb", "x blob 3"):
        assert read(new, absent) is None, absent
    assert read(old, "sub/deep/ü.txt") is None


# Worktrees


def test_a_worktree_is_the_old_revision_beside_the_repository(
    top: Path, repository: Repository
) -> None:
    (top / "kernel.py").write_text("V = 'uncommitted'\n")
    old = repository.resolve("HEAD~1")
    with worktree(repository, old) as tree:
        assert (tree / "kernel.py").read_text() == "V = 'old'\n"
        assert tree.name == top.name
        assert not tree.is_relative_to(top)
        assert tree.is_relative_to(Path(tempfile.gettempdir()).resolve())
        assert tree.parent.stat().st_mode & 0o077 == 0
        described = describe(tree)
        assert described == old
        assert git(tree, "branch", "--show-current") == ""
    assert (top / "kernel.py").read_text() == "V = 'uncommitted'\n"
    assert git(top, "branch", "--show-current") == "main"
    assert not tree.exists()
    assert leftovers(top) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_worktree_is_removed_after_any_error(
    top: Path, repository: Repository, error: type[BaseException]
) -> None:
    def run() -> None:
        with worktree(repository, repository.resolve("HEAD")) as tree:
            # What a run leaves in it is no reason to keep it.
            (tree / "kernel.py").write_text("changed")
            (tree / "untracked").write_text("new")
            raise error

    with pytest.raises(error):
        run()
    assert leftovers(top) == []


def test_a_worktree_is_removed_although_it_is_damaged(top: Path, repository: Repository) -> None:
    with worktree(repository, repository.resolve("HEAD")) as tree:
        (tree / ".git").unlink()
    assert leftovers(top) == []
    with worktree(repository, repository.resolve("HEAD")) as tree:
        shutil.rmtree(tree.parent)
    assert leftovers(top) == []


def test_a_failed_checkout_is_told_in_gits_words_and_leaves_nothing(
    top: Path, repository: Repository
) -> None:
    commit(top, "Filtered", _gitattributes="*.bin filter=absent\n", model_bin="pointer")
    git(top, "config", "filter.absent.smudge", "no-such-program")
    git(top, "config", "filter.absent.required", "true")
    at = repository.resolve("HEAD")
    with (
        pytest.raises(RevisionError, match=r"git cannot check it out: .*no-such-program") as caught,
        worktree(repository, at),
    ):
        pass
    assert str(caught.value).startswith(f"--autotune-against {at.short}: ")
    assert leftovers(top) == []


def test_hooks_do_not_run(top: Path, repository: Repository, tmp_path: Path) -> None:
    hook = top / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    with worktree(repository, repository.resolve("HEAD~1")):
        pass
    assert not (tmp_path / "ran").exists()
    git(top, "checkout", "--quiet", "-b", "other")
    assert (tmp_path / "ran").exists()


def test_a_hooks_environment_leads_nowhere_else(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = init(tmp_path / "other")
    commit(other, "Another", kernel_py="V = 'other'\n")
    first = git(top, "rev-parse", "HEAD~1")
    for name, value in {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_COMMON_DIR": other / ".git",
        "GIT_INDEX_FILE": other / ".git" / "index.lock",
        "GIT_OBJECT_DIRECTORY": other / ".git" / "objects",
        "GIT_PREFIX": "sub/",
    }.items():
        monkeypatch.setenv(name, str(value))
    repository = Repository.find(top / "sub")
    assert repository.top == top
    found = describe(top)
    assert found is not None
    assert found.subject == "The second: ¼ faster"
    with worktree(repository, repository.resolve("HEAD~1")) as tree:
        assert (tree / "kernel.py").read_text() == "V = 'old'\n"
        assert repository.file_at(repository.resolve(first), Path("kernel.py")) == "V = 'old'\n"
    assert names(other) == [".git", "kernel.py"]
    assert not (other / ".git" / "index.lock").exists()


def test_several_worktrees_at_once_do_not_disturb_each_other(
    top: Path, repository: Repository
) -> None:
    old, new = repository.resolve("HEAD~1"), repository.resolve("HEAD")

    def values(at: Commit) -> set[str]:
        found = set()
        for _ in range(3):
            with worktree(repository, at) as tree:
                found.add((tree / "kernel.py").read_text())
        return found

    with worktree(repository, old) as one, worktree(repository, old) as two:
        assert one != two
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(values, [old, new] * 2)) == [{"V = 'old'\n"}, {"V = 'new'\n"}] * 2
        assert (one / "kernel.py").exists()
        assert (two / "kernel.py").exists()
    assert leftovers(top) == []


#: Git, but it says beforehand whether the mutex is held when worktrees are made and removed.
_GIT = """#!{python}
import fcntl, os, sys
words = " ".join(sys.argv)
for action in ("worktree add", "worktree remove"):
    if action in words:
        with open({mutex!r}) as mutex, open({log!r}, "a") as log:
            try:
                fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.write(action + " unprotected\\n")
            except BlockingIOError:
                log.write(action + "\\n")
os.execv({git!r}, sys.argv)
"""


def test_worktrees_are_made_and_removed_by_one_run_at_a_time(
    top: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, folder, real = tmp_path / "log", tmp_path / "bin", shutil.which("git")
    folder.mkdir()
    mutex = str(top / ".git" / "pytest-autotune" / "mutex")
    text = _GIT.format(python=sys.executable, mutex=mutex, log=str(log), git=real)
    (folder / "git").write_text(text)
    (folder / "git").chmod(0o755)
    with holder(top) as (process, _):
        process.kill()
        process.wait()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    with worktree(repository, repository.resolve("HEAD")):
        pass
    assert log.read_text().splitlines() == ["worktree remove", "worktree add", "worktree remove"]


def test_what_could_not_be_removed_is_left_to_the_next_run(
    top: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with worktree(repository, repository.resolve("HEAD")) as tree:
            pass
    assert tree.parent.exists()
    with worktree(repository, repository.resolve("HEAD")):
        assert not tree.parent.exists()
    assert leftovers(top) == []


@contextlib.contextmanager
def holder(top: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another run that holds a worktree."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(top), tempfile.gettempdir()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.mark.parametrize("state", ["whole", "unfinished", "damaged", "missing"])
def test_what_a_killed_run_left_is_removed_by_the_next(
    top: Path, repository: Repository, state: str
) -> None:
    with holder(top) as (process, tree):
        assert (tree / "kernel.py").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    if state == "unfinished":
        # As `git worktree add` does until it is done.
        git(top, "worktree", "lock", "--reason", "initializing", str(tree))
    elif state == "damaged":
        (tree / ".git").unlink()
    elif state == "missing":
        shutil.rmtree(tree.parent)
    assert worktrees(top) == [str(tree)]
    with worktree(repository, repository.resolve("HEAD")) as ours:
        assert worktrees(top) == [str(ours)]
        assert not tree.parent.exists()
    assert leftovers(top) == []


def test_what_another_run_holds_is_left_alone(top: Path, repository: Repository) -> None:
    with holder(top) as (process, tree):
        with worktree(repository, repository.resolve("HEAD")) as ours:
            assert sorted(worktrees(top)) == sorted([str(ours), str(tree)])
        # Also where its temporary folder is not to be seen, as in a container beside it.
        hidden = tree.parent.rename(tree.parent.with_name("hidden"))
        with worktree(repository, repository.resolve("HEAD")):
            pass
        assert worktrees(top) == [str(tree)]
        hidden.rename(tree.parent)
        assert (tree / "kernel.py").exists()
        process.communicate()
        assert process.returncode == 0
    assert leftovers(top) == []


def test_a_run_that_was_killed_at_once_left_only_its_lock(
    top: Path, repository: Repository
) -> None:
    locks = top / ".git" / "pytest-autotune"
    locks.mkdir()
    (locks / "autotune-revision-0123456789ab").touch()
    with worktree(repository, repository.resolve("HEAD")):
        pass
    assert leftovers(top) == []


def test_a_lock_that_names_something_else_removes_nothing(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    locks = top / ".git" / "pytest-autotune"
    locks.mkdir()
    (tmp_path / "precious" / "tree").mkdir(parents=True)
    (locks / "autotune-revision-0123456789ab").write_text(str(tmp_path / "precious" / "tree"))
    with worktree(repository, repository.resolve("HEAD")):
        pass
    assert (tmp_path / "precious" / "tree").exists()


def test_worktrees_of_the_user_are_left_alone(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    for name in ("there", "unplugged"):
        git(top, "worktree", "add", "--quiet", "--detach", str(tmp_path / name))
    shutil.rmtree(tmp_path / "unplugged")
    before = worktrees(top)
    with worktree(repository, repository.resolve("HEAD")):
        pass
    assert worktrees(top) == before
    assert (tmp_path / "there" / "kernel.py").exists()


def test_a_worktree_can_be_made_from_another(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    git(top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"))
    linked = Repository.find(tmp_path / "linked")
    assert linked.top == (tmp_path / "linked").resolve()
    with worktree(linked, linked.resolve("main~1")) as tree:
        assert tree.name == "linked"
        assert (tree / "kernel.py").read_text() == "V = 'old'\n"
    assert worktrees(top) == [str(linked.top)]


def test_a_worktree_lies_where_it_is_told_to(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    with worktree(repository, repository.resolve("HEAD"), under=tmp_path / "new") as tree:
        assert tree.is_relative_to(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_worktree_is_outside_although_temporary_files_are_not(
    top: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(top / "tmp"))
    with worktree(repository, repository.resolve("HEAD")) as tree:
        assert not tree.is_relative_to(top)
        assert (tree / "kernel.py").exists()
    assert not tree.exists()


def test_no_place_for_a_worktree_is_an_error(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            RevisionError, match=r"--autotune-against .*: there is no place for its files"
        ),
        worktree(repository, repository.resolve("HEAD"), under=tmp_path / "file"),
    ):
        pass
    assert leftovers(top) == []


# Submodules


@pytest.fixture
def library(top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that has been a submodule of ours from the third commit on."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    library = init(top.parent / "library")
    commit(library, "A library", code_h="1\n")
    git(top, "submodule", "--quiet", "add", library.as_uri(), "vendor/library")
    commit(top, "The third")
    return library


def test_submodules_are_as_they_were(top: Path, repository: Repository, library: Path) -> None:
    commit(library, "A newer one", code_h="2\n")
    git(top / "vendor" / "library", "pull", "--quiet")
    commit(top, "The fourth")
    with worktree(repository, repository.resolve("HEAD~1")) as tree:
        assert (tree / "vendor" / "library" / "code.h").read_text() == "1\n"
    assert (top / "vendor" / "library" / "code.h").read_text() == "2\n"
    assert leftovers(top) == []
    with worktree(repository, repository.resolve("HEAD~2")) as tree:
        assert not (tree / "vendor").exists()


def test_submodules_of_submodules_are_there(
    top: Path, repository: Repository, library: Path
) -> None:
    inner = init(top.parent / "inner")
    commit(inner, "An inner one", deep_h="1\n")
    git(library, "submodule", "--quiet", "add", inner.as_uri(), "inner")
    commit(library, "With an inner one")
    git(top / "vendor" / "library", "pull", "--quiet")
    commit(top, "The fourth")
    with worktree(repository, repository.resolve("HEAD")) as tree:
        assert (tree / "vendor" / "library" / "inner" / "deep.h").read_text() == "1\n"
    assert leftovers(top) == []


def test_submodules_that_are_gone_are_fetched(
    top: Path, repository: Repository, library: Path
) -> None:
    git(top, "rm", "--quiet", "--force", "vendor/library")
    commit(top, "The fourth")
    with worktree(repository, repository.resolve("HEAD~1")) as tree:
        assert (tree / "vendor" / "library" / "code.h").exists()


def test_submodules_that_the_working_tree_does_without_are_not_fetched(
    top: Path, library: Path
) -> None:
    folder = clone(top)
    repository = Repository.find(folder)
    before = (folder / ".git" / "config").read_text()
    with worktree(repository, repository.resolve("HEAD")) as tree:
        assert list((tree / "vendor" / "library").iterdir()) == []
    assert (folder / ".git" / "config").read_text() == before


def test_a_submodule_that_is_not_to_be_had_is_an_error(
    top: Path, repository: Repository, library: Path
) -> None:
    library.rename(library.with_name("moved"))
    with (
        pytest.raises(RevisionError, match=r"git cannot check it out: .*vendor/library"),
        worktree(repository, repository.resolve("HEAD")),
    ):
        pass
    assert leftovers(top) == []


def test_a_repository_that_is_a_submodule_has_worktrees_too(top: Path, library: Path) -> None:
    inner = Repository.find(top / "vendor" / "library")
    assert inner.top == top / "vendor" / "library"
    with worktree(inner, inner.resolve("HEAD")) as tree:
        assert (tree / "code.h").read_text() == "1\n"
    assert git(inner.top, "status", "--porcelain") == ""
    assert git(inner.top, "worktree", "list").count("\n") == 0


# Paths


def test_paths_in_the_repository_are_mapped(tmp_path: Path) -> None:
    top, tree = tmp_path / "project", tmp_path / "trees" / "project"
    (top / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(top)
    (top / "outward").symlink_to("/usr")
    assert map_path(top, top, tree) == tree
    assert map_path(top / "sub" / "x.py", top, tree) == tree / "sub" / "x.py"
    assert map_path(tmp_path / "link" / "sub", top, tree) == tree / "sub"
    assert map_path(top / "sub", tmp_path / "link", tree) == tree / "sub"
    assert map_path(top / "outward", top, tree) == tree / "outward"
    link = tmp_path / "link"
    assert map_path(link / "outward", link, tree) == tree / "outward"
    for other in (Path("/usr/lib"), tmp_path, tmp_path / "project-2" / "x.py", tree / "sub"):
        assert map_path(other, top, tree) == other
    within = top / "trees" / "project"
    assert map_path(within / "sub", top, within) == within / "sub"


@pytest.fixture
def layout(tmp_path: Path) -> tuple[Path, Path]:
    """A repository's folder, with environments in it, and that of a worktree."""
    top = tmp_path / "project"
    for folder in (".venv", "tools/odd"):
        (top / folder / "lib").mkdir(parents=True)
        (top / folder / "pyvenv.cfg").touch()
    (top / "conda" / "conda-meta").mkdir(parents=True)
    return top, tmp_path / "tree"


def test_the_import_path_is_mapped(
    layout: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, tree = layout
    (top / "src").mkdir()
    (tmp_path / "link").symlink_to(top / "src")
    monkeypatch.chdir(top / "src")
    keep = tmp_path / "elsewhere" / "pytest_autotune"
    entries = ["", str(top), "/usr/lib/python3", str(top / "tests"), ".", str(top / "src"),
               str(tmp_path / "link"), "../relative", str(top) + "-other", str(top / "tests") + "/",
               str(tree / "already")]  # fmt: skip
    assert mapped_import_path(entries, top, tree, keep) == [
        str(tree / "src"), str(tree), str(tree / "tests"), str(tree / "relative"),
    ]  # fmt: skip


def test_environments_in_the_repository_are_not_mapped(
    layout: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, tree = layout
    monkeypatch.setattr(sys, "prefix", str(top / "python"))
    entries = [".venv/lib/python3/site-packages", ".venv/lib", "tools/odd/lib", ".venv",
               "deps/site-packages", "deps/dist-packages/x", "conda/lib/python3", "python/lib",
               "__pypackages__/3.11/lib", "tools"]  # fmt: skip
    mapped = mapped_import_path([str(top / e) for e in entries], top, tree, tmp_path / "x" / "y")
    assert mapped == [str(tree / "tools")]


@pytest.mark.parametrize("prefix", [".", ".."])
def test_a_repository_in_an_environment_is_mapped(
    layout: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    top, tree = layout
    (top / prefix / "pyvenv.cfg").touch()
    monkeypatch.setattr(sys, "prefix", os.path.normpath(top / prefix))
    entries = [str(top / "src"), str(top / "lib" / "site-packages"), str(top)]
    assert mapped_import_path(entries, top, tree, Path("/x/y")) == [str(tree / "src"), str(tree)]


def test_the_harness_is_always_the_running_one(layout: tuple[Path, Path], tmp_path: Path) -> None:
    top, tree = layout
    (top / "tools" / "pytest_autotune").mkdir()
    (tmp_path / "link").symlink_to(top / "tools")
    keep = tmp_path / "link" / "pytest_autotune"
    entries = [str(top), str(top / "tools"), str(tmp_path / "link"), str(top / "tools" / "more")]
    assert mapped_import_path(entries, top, tree, keep) == [str(tree), str(tree / "tools" / "more")]


def test_a_worktree_in_the_repository_is_not_mapped_again(layout: tuple[Path, Path]) -> None:
    top, _ = layout
    tree = top / "build" / "tree"
    entries = [str(tree), str(tree / "src"), str(top / "src")]
    assert mapped_import_path(entries, top, tree, Path("/x/y")) == [str(tree / "src")]
    files = [str(tree / "kernel.py"), str(top / "kernel.py")]
    assert strays(files, top, tree, Path("/x/y")) == [str(top / "kernel.py")]


def test_roots_of_editable_installs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = ModuleType("__editable___thing_1_0_finder")
    finder.__dict__["MAPPING"] = {
        "thing": "/repo/src/thing",
        "module": "/repo/src/module",
        "deep.down.part": "/repo/lib/deep/down/part",
        "renamed": "/repo/other/folder",
        "dotted": "/repo.d/dotted",
        "suffixed": "/repo/suffixed_src/suffixed.d",
    }
    finder.__dict__["NAMESPACES"] = {"spaced": ["/repo/name/spaced", "/repo/more/spaced"]}
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    monkeypatch.setitem(sys.modules, "__editable___empty_finder", ModuleType("empty"))

    class Redirecting:
        _redirections = {  # noqa: RUF012 - as editables has it
            "exact": "/repo/exact_src/exact/__init__.py",
            "single": "/repo/single_src/single.py",
        }

    before = editable_roots()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Redirecting])
    found = editable_roots()
    assert set(found) - set(before) == {"/repo/exact_src", "/repo/single_src"}
    assert {"/repo/src", "/repo/lib", "/repo.d", "/repo/name", "/repo/more"} <= set(found)
    assert not {"/repo/other", "/repo", "/repo/suffixed_src"} & set(found)
    assert len(found) == len(set(found))


#: As setuptools writes it, in short.
_FINDER = """
import sys
from importlib.machinery import PathFinder
MAPPING = {mapping!r}
class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            return PathFinder.find_spec(fullname, [MAPPING[fullname].rpartition("/")[0]])
def install():
    sys.meta_path.append(_EditableFinder)
"""


def test_a_process_imports_the_old_revision_of_editable_installs(
    top: Path, repository: Repository, tmp_path: Path
) -> None:
    """A ``.pth`` file names src/, an import hook leads to hooked/; ``sys.path`` has neither."""
    first = commit(
        top, "Packages", src__plain__code_py="V = 1\n", hooked__pack__code_py="V = 1\n",
        lone__code_py="V = 1\n",
    )  # fmt: skip
    commit(top, "Newer", src__plain__code_py="V = 2\n", hooked__pack__code_py="V = 2\n")
    site = tmp_path / "site"
    site.mkdir()
    finder = "__editable___pack_1_finder"
    mapping = {"pack": str(top / "hooked" / "pack")}
    (site / f"{finder}.py").write_text(_FINDER.format(mapping=mapping))
    (site / "editable.pth").write_text(f"{top / 'src'}\nimport {finder}; {finder}.install()\n")
    shutil.rmtree(top / "src" / "__pycache__", ignore_errors=True)
    begin = f"import sys, site; site.addsitedir({str(site)!r})\n"
    report = (
        "from pytest_autotune.gate.revision import imports\n"
        "print(*sys.path, *imports.editable_roots(), sep='\\n')"
    )
    use = "import plain.code, pack.code\nprint(plain.code.__file__, pack.code.__file__)"

    def run(code: str, *path: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", begin + code],
            check=True, stdout=subprocess.PIPE, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip
        return done.stdout.split()

    keep = Path("/elsewhere/pytest_autotune")
    new = [str(top / "src/plain/code.py"), str(top / "hooked/pack/code.py")]
    assert run(use) == new
    with worktree(repository, repository.resolve(first)) as tree:
        path = mapped_import_path(run(report), top, tree, keep)
        assert path == [str(tree / "src"), str(tree / "hooked")]
        files = run(use, *path)
        assert files == [str(tree / "src/plain/code.py"), str(tree / "hooked/pack/code.py")]
        assert strays(files, top, tree, keep) == []
        assert strays(run(use, path[0]), top, tree, keep) == new[1:]


def test_strays_are_what_came_from_the_wrong_tree(
    layout: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, tree = layout
    keep = top / "pytest_autotune"
    (tmp_path / "link").symlink_to(top)
    (top / "local.py").touch()
    monkeypatch.chdir(top)
    wrong = [str(top / "kernel.py"), str(top / "pytest_autotune_more" / "x.py"),
             str(tmp_path / "link" / "y.py"), "local.py"]  # fmt: skip
    right = [
        str(tree / "kernel.py"),
        str(keep / "plugin.py"),
        str(top / ".venv" / "bin" / "pytest"),
        str(top / "deps" / "site-packages" / "numpy" / "__init__.py"),
        "/usr/lib/python3/json/__init__.py",
        str(tmp_path / "project-2" / "kernel.py"),
        "<frozen importlib>",
        "built-in",
        "",
    ]
    assert strays([*right, *wrong, wrong[0]], top, tree, keep) == wrong


@pytest.mark.parametrize(
    ("name", "url", "info", "copied"),
    [
        ("other-name", "TOP", {}, True),
        ("other-name", "TOP/libs/part", {}, True),
        ("other-name", "TOP", {"editable": True}, False),
        ("other-name", "/elsewhere", {}, False),
        # Built into a wheel first, it knows no origin, but its name.
        ("My.Kernels", None, {}, True),
        ("other-name", None, {}, False),
    ],
)
def test_an_installed_copy_of_the_repository_is_known(  # noqa: PLR0913, PLR0917
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    url: str | None,
    info: dict[str, bool],
    copied: bool,  # noqa: FBT001
) -> None:
    top, site = tmp_path / "a top", tmp_path / "site"
    folder = site / "some-1.dist-info"
    for made in (top, folder, site / "kernels"):
        made.mkdir(parents=True)
    (top / "pyproject.toml").write_text('[project]\nname = "my_kernels"\n')
    (site / "kernels" / "__init__.py").touch()
    (site / "single.py").touch()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (folder / "RECORD").write_text(
        "kernels/__init__.py,,\nsingle.py,,\nsome-1.dist-info/METADATA,,\n../../bin/run,,\n"
    )
    if url is not None:
        place = Path(url.replace("TOP", str(top))).as_uri()
        (folder / "direct_url.json").write_text(json.dumps({"url": place, "dir_info": info}))
    monkeypatch.setattr(sys, "path", [str(site)])
    found = installed_copies(top, [top])
    assert found == ([site / "kernels", site / "single.py"] if copied else [])
    assert installed_copies(tmp_path / "nothing", [tmp_path / "nothing"]) == []
