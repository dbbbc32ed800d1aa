"""--autotune-storage: a fleet of runners shares one study and one budget."""

from __future__ import annotations

import signal
import time

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


def _with_secrets_everywhere(url: str) -> str:
    """Return a URL of the same database with a password in its query, and odd characters in it."""
    server, _, database = url.partition("://tester:s3cr3t-word@")
    return f"{server}://{database}&user=tester&password=s3cr3t-w%23ord"


@pytest.mark.parametrize(("place", "workers"), [("option", "0"), ("spec", "2")])
def test_a_password_in_the_query_is_shown_nowhere(
    project: Project, postgres_url: str, place: str, workers: str
) -> None:
    url = _with_secrets_everywhere(postgres_url)
    body = """
def test_it(trial):
    print(pathlib.Path("url").read_text())
    assert trial.number != 3
    trial.report({"cost": trial.params["a"], "mem": 1})
"""
    args = ["-n", workers, "-v", "--junitxml=out.xml"]
    if place == "spec":
        optimization = {**SPEC["optimization"], "storage": url}
        project.write(body, {**SPEC, "optimization": optimization})
    else:
        project.write(body)
        args += ["--autotune-storage", url]
    (project.path / "url").write_text(url)
    result = project.run(*args, status=1)
    assert "12 of 12" in result
    assert "password=***" in result
    for shown in (result, (project.path / "out.xml").read_text()):
        assert "s3cr3t-w" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://127.0.0.1:1/db?user=me&password=s3cr3t-word",
        "postgresql+psycopg://me:s3cr3t-/#?word@127.0.0.1:1/db",
        "postgresql+psycopg://me:s3@cr3t-word@127.0.0.1:1/db",
        "postgresql+psycopg://me:s3@cr3t/cr3t-word@127.0.0.1:1/db",
        "postgresql+psycopg://me:s3cr3t-word",
        "me:s3cr3t-word@127.0.0.1/db",
        "postgresql+psycopg://127.0.0.1:1/db?pasword=s3cr3t-word",
        "oracle://me:s3cr3t-word@x",
    ],
)
def test_an_error_shows_no_password(project: Project, url: str) -> None:
    result = project.run("--autotune-storage", url, status=pytest.ExitCode.USAGE_ERROR)
    assert "storage '" in result
    assert "cr3t-" not in result
    assert "Traceback" not in result


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_password_and_its_folder_to_the_next_run(
    project: Project, postgres_url: str, number: signal.Signals
) -> None:
    temporary = project.path / "temporary"
    temporary.mkdir()
    optimization = {**SPEC["optimization"], "storage": _with_secrets_everywhere(postgres_url)}
    project.write(
        """
def test_it(trial):
    pathlib.Path(f"began-{os.environ['PYTEST_XDIST_WORKER']}").touch()
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    trial.report({"cost": trial.params["a"], "mem": 1})
""",
        {**SPEC, "optimization": optimization},
    )
    (project.path / "wait").touch()
    process = project.start("-n", "2", TMPDIR=str(temporary))
    limit = time.monotonic() + 60
    while len(list(project.path.glob("began-*"))) < 2:
        assert time.monotonic() < limit, project.output()
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(timeout=30)
    (left,) = temporary.glob("pytest-autotune-*/collection*")
    for path in temporary.rglob("*"):
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes()
    (project.path / "wait").unlink()
    project.run("-n", "2", status=(0, 1), TMPDIR=str(temporary))
    assert not left.exists()
    assert list(temporary.glob("*autotune-*")) == []
