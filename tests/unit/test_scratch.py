"""Temporary folders: none of a dead owner is left, none of a live one is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_autotune.errors import StorageError
from pytest_autotune.system.scratch import Scratch, scratch_folder, sweep
from pytest_autotune.system.sealing import new_key, sealed, unsealed

OWNER = """
import sys
from pytest_autotune.errors import StorageError
from pytest_autotune.system.scratch import Scratch
made = Scratch("pytest-autotune-")
(made.path / "content").touch()
print(made.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Give another process with a folder, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_of_a_killed_owner_is_removed_and_that_of_a_live_one_is_not(
    temporary: Path,
) -> None:
    own = Scratch("pytest-autotune-")
    with owner() as (live, kept), owner() as (dead, left):
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait(timeout=20)
        sweep()
        assert not left.exists()
        assert (kept / "content").exists()
        assert own.path.exists()
        assert live.poll() is None
    own.remove()
    assert not own.path.exists()


def test_a_folder_without_a_lock_is_nobodys_business(temporary: Path) -> None:
    other = temporary / "pytest-autotune-other"
    other.mkdir()
    (other / "file").touch()
    sweep()
    assert (other / "file").exists()


def test_a_folder_of_somebody_else_is_left_and_so_is_what_its_lock_links_to(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = temporary / "precious"
    precious.write_text("mine")
    theirs = temporary / "autotune-theirs"
    theirs.mkdir()
    (theirs / "owner.lock").touch()
    hostile = temporary / "autotune-hostile"
    hostile.mkdir()
    # Some versions of filelock would empty it.
    (hostile / "owner.lock").symlink_to(precious)
    monkeypatch.setattr("os.getuid", lambda: theirs.stat().st_uid + 1)
    sweep()
    assert theirs.exists()
    assert precious.read_text() == "mine"


def test_a_folder_lives_as_long_as_its_block(temporary: Path) -> None:
    with scratch_folder("autotune-load-") as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_what_is_sealed_is_read_with_the_key_only() -> None:
    key, content = new_key(), b"password" * 100
    first, second = sealed(content, key), sealed(content, key)
    assert b"password" not in first
    assert first != second
    assert unsealed(first, key) == unsealed(second, key) == content
    assert unsealed(first, new_key()) != content
    assert unsealed(sealed(b"", key), key) == b""


def test_a_place_that_cannot_be_written_is_named(temporary: Path) -> None:
    with pytest.raises(StorageError, match=r"no temporary folder can be made: .*; set TMPDIR"):
        Scratch("pytest-autotune-", temporary / "nowhere")
