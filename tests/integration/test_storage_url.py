"""--autotune-storage: a fleet of runners shares one study and one budget."""

from __future__ import annotations

import pytest
from inner import kill
from project import SPEC, Project


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, project: Project) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{project.path / 'studies.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.mark.parametrize(
    "storage", [pytest.param("sqlite", marks=pytest.mark.slow), "postgres"], indirect=True
)
def test_two_sessions_share_one_budget(project: Project, storage: str) -> None:
    project.write("""
def test_it(trial):
    # Begin together, however long one of the sessions takes to start.
    pathlib.Path(f"here-{os.environ['RUNNER']}").touch()
    limit = time.monotonic() + 60
    while len(list(pathlib.Path().glob("here-*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.05)
    trial.report({"cost": trial.params["a"], "mem": 1})
""")
    args = ("--autotune-storage", storage)
    first = project.start(*args, RUNNER="first")
    second = project.start(*args, "-n", "2", RUNNER="second")
    try:
        statuses = {first.wait(timeout=60), second.wait(timeout=60)}
    finally:
        kill(first)
        kill(second)
        print((project.path / "started.log").read_text())  # noqa: T201 - shown if it fails
    assert statuses <= {0, 1}
    records = project.records(storage=storage)
    assert len(records) == SPEC["optimization"]["max_iterations"]
    assert len({record.key for record in records}) == len(records)
    assert all(record.finished for record in records)
    assert len({record.owner.session for record in records}) == 2


def test_the_password_is_shown_nowhere(project: Project, storage: str) -> None:
    result = project.run("--autotune-storage", storage, "-v", "--junitxml=out.xml")
    assert "12 of 12" in result
    everything = result + (project.path / "out.xml").read_text()
    for path in project.path.rglob("*"):
        if path.is_file() and path.suffix != ".db":
            everything += path.read_text(errors="replace")
    assert "s3cr3t-word" not in everything
    again = project.run("--autotune-storage", storage)
    assert "12 of them in earlier runs" in again


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_database_that_goes_away_ends_the_run_and_loses_nothing(
    project: Project, postgres_url: str, workers: str
) -> None:
    project.write("""
import psycopg
def test_it(trial):
    marker = pathlib.Path("cut")
    if trial.number == 4 and not marker.exists():
        marker.touch()
        url = pathlib.Path("url").read_text().replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    trial.report({"cost": trial.params["a"], "mem": 1})
""")
    (project.path / "url").write_text(postgres_url)
    args = ("--autotune-storage", postgres_url, "-n", workers, "-W", "error")
    everything = project.run(*args, status=pytest.ExitCode.USAGE_ERROR)
    assert "lost the connection to the study's database" in everything
    assert "INTERNALERROR" not in everything
    assert "Traceback" not in everything
    assert "s3cr3t-word" not in everything
    project.run(*args, status=pytest.ExitCode.OK)
    records = project.records(storage=postgres_url)
    assert [record.finished for record in records] == [True] * 12
