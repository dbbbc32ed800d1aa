"""--autotune-storage: a fleet of runners shares one study and one budget."""

from __future__ import annotations

import pytest
from project import SPEC, Project


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, project: Project) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{project.path / 'studies.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_two_sessions_share_one_budget(project: Project, storage: str) -> None:
    project.write(
        module="""
import os, pathlib, time, pytest
pytestmark = pytest.mark.autotune(**{spec!r})
def test_it(trial):
    # Begin together, however long one of the sessions takes to start.
    pathlib.Path(f"here-{{os.environ['RUNNER']}}").touch()
    limit = time.monotonic() + 60
    while len(list(pathlib.Path().glob("here-*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.05)
    trial.report({{"cost": trial.params["a"], "mem": 1}})
""",
    )
    args = ("--autotune-storage", storage)
    first = project.start(*args, RUNNER="first")
    second = project.start(*args, "-n", "2", RUNNER="second")
    assert {first.wait(timeout=60), second.wait(timeout=60)} <= {0, 1}
    records = project.records(storage=storage)
    assert len(records) == SPEC["optimization"]["max_iterations"]
    assert len({record.key for record in records}) == len(records)
    assert all(record.finished for record in records)
    assert len({record.owner.session for record in records}) == 2


def test_the_password_is_shown_nowhere(project: Project, storage: str) -> None:
    result = project.run("--autotune-storage", storage, "-v", "--junitxml=out.xml")
    assert "12 of 12" in result.stdout
    everything = result.stdout + result.stderr + (project.path / "out.xml").read_text()
    for path in project.path.rglob("*"):
        if path.is_file() and path.suffix != ".db":
            everything += path.read_text(errors="replace")
    assert "s3cr3t-word" not in everything
    again = project.run("--autotune-storage", storage)
    assert "12 of them in earlier runs" in again.stdout
