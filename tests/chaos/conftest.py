"""The table of figures, a project, and no cache of a tox around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import pytest_terminal_summary  # noqa: F401 - a hook
from project import Project


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where pytest finds tox around it, it keeps the cache of all runs in tox's folder.
    monkeypatch.delenv("TOX_ENV_DIR", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project with a study of 12 trials."""
    found = Project(tmp_path)
    yield found
    found.stop()
