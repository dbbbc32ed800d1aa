"""Tests that are named by their ids: only those of that very file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_autotune.plugin.selection import is_asked_for


def config(directory: Path, args: Sequence[str], *, failed: Sequence[str] = ()) -> Any:
    """Return a config of a run in a folder; ``failed`` are tests to run again."""
    return SimpleNamespace(
        args=args,
        invocation_params=SimpleNamespace(dir=directory),
        cache=SimpleNamespace(get=lambda *_: dict.fromkeys(failed, True)),
        getoption=lambda *_, **__: bool(failed),
    )


@pytest.mark.parametrize(
    ("directory", "arg", "asked"),
    [
        (".", "one/test_k.py::test_a[x:1]", True),
        (".", "two/test_k.py::test_a[x:1]", False),
        (".", "one/test_k.py::test_a[x:2]", False),
        (".", "one/test_k.py::test_a", False),
        ("one", "test_k.py::test_a[x:1]", True),
        ("two", "test_k.py::test_a[x:1]", False),
        ("two", "../one/test_k.py::test_a[x:1]", True),
        (".", "link/test_k.py::test_a[x:1]", True),
    ],
)
def test_a_test_is_asked_for_by_its_file_and_its_name(
    tmp_path: Path,
    directory: str,
    arg: str,
    asked: bool,  # noqa: FBT001
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("one")
    item: Any = SimpleNamespace(
        nodeid="one/test_k.py::test_a[x:1]", path=tmp_path / "one" / "test_k.py"
    )
    assert is_asked_for(config(tmp_path / directory, [arg]), [item]) is asked
    absolute = [f"{tmp_path / directory}/{arg}"]
    assert is_asked_for(config(tmp_path / "two", absolute), [item]) is asked


def test_a_test_that_failed_last_time_is_asked_for(tmp_path: Path) -> None:
    item: Any = SimpleNamespace(nodeid="test_k.py::test_a[x:1]", path=tmp_path / "test_k.py")
    assert is_asked_for(config(tmp_path, [], failed=[item.nodeid]), [item])
    assert not is_asked_for(config(tmp_path, [], failed=["test_k.py::test_a[x:2]"]), [item])
