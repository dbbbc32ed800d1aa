"""Helpers for tests that run pytest in pytest."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # noqa: F401
import numpy as np  # noqa: F401 - C extensions cannot be loaded twice, and an inner run in
import optuna.samplers  # noqa: F401 - this process forgets what it was the first to import
import pytest
import ruamel.yaml  # noqa: F401
import sqlalchemy.dialects.postgresql  # noqa: F401
from containers import Engine
from gated import Gated
from inner import FEW_PLUGINS
from project import Project
from serving import Serving

import pytest_autotune.gpu.nvml  # noqa: F401 - two of it would not know each other's errors


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner runs in this process, too, have their own cache and load few plugins."""
    # Where pytest finds tox around it, it keeps the cache of all runs in tox's folder.
    monkeypatch.delenv("TOX_ENV_DIR", raising=False)
    for name, value in FEW_PLUGINS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project with a study of 12 trials, half a dozen of them infeasible or wrong."""
    found = Project(tmp_path)
    found.write()
    yield found
    found.stop()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """An empty project for a study of servers."""
    found = Serving(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def study(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run a study module in this process, strictly: ``study(module, *args)``.

    The module starts with imports and a mark of the given spec keys, unless it has its own.
    """

    def run(body: str, *args: str, **keys: Any) -> pytest.RunResult:
        spec = {
            "parameters": {"a": [1, 2, 3, 4]},
            "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
            **keys,
        }
        mark = "" if "autotune(" in body else f"pytestmark = pytest.mark.autotune(**{spec!r})"
        pytester.makepyfile(test_study=f"import pytest\n{mark}\n{textwrap.dedent(body)}")
        strict = ("-W", "error", "--strict-markers", "--strict-config")
        return pytester.runpytest_inprocess("--autotune", *strict, *args)

    return run


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Gated]:
    """A repository without a commit, whose best configuration is a=1."""
    found = Gated(tmp_path / "repository")
    found.init()
    yield found
    found.stop()
    assert found.leftovers() == []


@pytest.fixture
def gated(repository: Gated) -> Gated:
    """A repository whose first commit pins a=1 with a cost of 1."""
    repository.pin()
    repository.commit("first")
    return repository


@pytest.fixture
def engine(docker_image: str, tmp_path: Path) -> Iterator[Engine]:
    """The engine, whose containers of this test are removed at its end."""
    found = Engine(docker_image, tmp_path)
    try:
        yield found
    finally:
        for container in found.containers():
            container.remove(force=True)
        found.client.close()
