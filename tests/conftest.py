"""Fixtures for all tests: real engines where there are any, and a promise about skipping.

``AUTOTUNE_REQUIRE=docker,postgres,cc`` turns a missing engine from a skip into a failure.
"""

from __future__ import annotations

import io
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cuda import need_cuda
from inner import FEW_PLUGINS

# Tests start many small processes; threads for matrix products only make them slower to start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Where it is set, as in many containers, each of them would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure() -> None:
    """Let what tests start heed interrupts, which a shell's commands in the background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytest's fixture, whose runs load few plugins."""
    for name, value in FEW_PLUGINS.items():
        monkeypatch.setenv(name, value)
    return pytester


def unavailable(engine: str, reason: str) -> None:
    """Skip a test that needs ``engine``, or fail it where CI requires the engine."""
    if engine in os.environ.get("AUTOTUNE_REQUIRE", "").split(","):
        pytest.fail(f"AUTOTUNE_REQUIRE asks for {engine}, but {reason}", pytrace=False)
    pytest.skip(reason)


def _postgres_bin() -> Path | None:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    return next((path for path in candidates if (path / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of our own on a socket in a temporary folder; gives its folder."""
    binaries = _postgres_bin()
    if binaries is None:
        unavailable("postgres", "no PostgreSQL is installed")
        return
    # PostgreSQL refuses to run as root.
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            unavailable("postgres", "there is no user 'postgres' to run PostgreSQL as")
    # Not under tmp_path: a socket's path must be short, and its folder open to that user.
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            check=True,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    try:
        run("initdb", "-D", str(data), "-U", "tester", "--auth=trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=60"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield str(folder)
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a fresh database on a real PostgreSQL server."""
    psycopg = pytest.importorskip("psycopg")
    name = f"study_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(
        host=postgres_server, user="tester", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://tester:s3cr3t-word@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def docker_image() -> Iterator[str]:
    """An image of empty folders on a real Docker engine; what runs comes in by volumes."""
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env(timeout=20)
        client.ping()
    except docker.errors.DockerException as error:
        unavailable("docker", f"no Docker engine answers ({error})")
        return
    name = f"autotune-test-{uuid.uuid4().hex[:12]}"
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        for folder in ("tmp", "proc", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o777
            archive.addfile(entry)
    client.api.import_image_from_data(empty.getvalue(), repository=name, tag="1")
    try:
        yield f"{name}:1"
    finally:
        client.images.remove(f"{name}:1", force=True)
        client.close()


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library of the CUDA driver, compiled once per session."""
    return need_cuda(tmp_path_factory)
