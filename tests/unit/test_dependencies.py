"""Files whose declared dependencies differ between a commit and a working tree."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from builders import isolate_git

from pytest_autotune.gate.revision.dependencies import changed_dependency_files
from pytest_autotune.gate.revision.repository import Repository


def git(top: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(top), *arguments], check=True, capture_output=True)


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository without commits, out of reach of this machine's settings."""
    isolate_git(monkeypatch)
    top = (tmp_path / "project").resolve()
    top.mkdir()
    git(top, "init", "--quiet")
    return top


def write(top: Path, files: Mapping[str, str | None]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)


def changed(
    top: Path, old: Mapping[str, str | None], new: Mapping[str, str | None], folder: str = ""
) -> list[str]:
    """Commit ``old``, write ``new`` over it (None removes a file), and return what differs."""
    write(top, old)
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--allow-empty", "--message", "old")
    write(top, new)
    repository = Repository.find(top)
    return changed_dependency_files(repository, repository.resolve("HEAD"), top / folder)


@pytest.mark.parametrize(
    "file",
    [
        "requirements.txt", "requirements-dev.txt", "requirements/gpu.txt", "constraints.txt",
        "uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "pylock.dev.toml",
        "environment.yml", "environment.yaml",
    ],
)  # fmt: skip
def test_a_file_that_changed_came_or_went_is_named(top: Path, file: str) -> None:
    assert changed(top, {file: "one"}, {}) == []
    assert changed(top, {}, {file: "two"}) == [file]
    assert changed(top, {}, {file: None}) == [file]
    assert changed(top, {}, {file: "new"}) == [file], "not committed yet"


def test_other_files_and_those_that_git_ignores_are_not_named(top: Path) -> None:
    new: Mapping[str, str | None] = {
        "uv.lock": "x", "setup.py": "", "notes.txt": "", "src/requirements.txt": "",
        "sub/uv.lock": "", "sub/pyproject.toml": "[project]\ndependencies = ['a']\n",
    }  # fmt: skip
    assert changed(top, {".gitignore": "uv.lock\n"}, new) == []


PYPROJECT = """
[build-system]
requires = ["hatchling"]
[project]
name = "x"
version = "1"
requires-python = ">=3.10"
dependencies = ["numpy>=1.26"]
[project.optional-dependencies]
gpu = ["cupy"]
[dependency-groups]
test = ["pytest"]
[tool.poetry.dependencies]
torch = "^2.5"
[tool.poetry.dev-dependencies]
ruff = "0.14"
[tool.poetry.group.test.dependencies]
mypy = "^1"
[tool.ruff]
line-length = 100
"""


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("hatchling", "setuptools", True),
        (">=3.10", ">=3.11", True),
        ("numpy>=1.26", "numpy>=2", True),
        ("cupy", "cupy>=13", True),
        ("pytest", "pytest>=8", True),
        ("^2.5", "^2.6", True),
        ("0.14", "0.15", True),
        ("mypy = ", "pyright = ", True),
        ('["numpy>=1.26"]', '[  # why\n  "numpy>=1.26",\n]', False),
        ('version = "1"', 'version = "2"', False),
        ("line-length = 100", "line-length = 99", False),
        ("[project]", "[project", True),
        ("[project]\n", "project = 3\n[other]\n", True),
    ],
)
def test_of_pyproject_only_declared_dependencies_count(
    top: Path, old: str, new: str, *, differs: bool
) -> None:
    assert old in PYPROJECT
    text = PYPROJECT.replace(old, new)
    found = changed(top, {"pyproject.toml": PYPROJECT}, {"pyproject.toml": text})
    assert found == ["pyproject.toml"] * differs


def test_the_files_of_a_folder_are_named_besides_those_at_the_top(top: Path) -> None:
    old: Mapping[str, str | None] = {
        "uv.lock": "1", "su b/uv.lock": "1", "su b/pyproject.toml": PYPROJECT, "other/uv.lock": "1",
    }  # fmt: skip
    new = {**dict.fromkeys(old, "2"), "su b/pyproject.toml": None}
    assert changed(top, old, new, "su b") == ["su b/pyproject.toml", "su b/uv.lock", "uv.lock"]


def test_without_a_difference_nothing_is_named(top: Path) -> None:
    assert changed(top, {}, {}) == []
