"""Fixtures for all tests: real engines where there are any, and a promise about skipping.

``AUTOTUNE_REQUIRE=docker,postgres,cc`` turns a missing engine from a skip into a failure.
"""

from __future__ import annotations

import io
import os
import signal
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cuda import need_cuda
from inner import FEW_PLUGINS
from postgres import NoPostgres, Postgres
from required import unavailable

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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server of our own on a socket in a temporary folder."""
    try:
        server = Postgres()
    except NoPostgres as error:
        unavailable("postgres", str(error))
        return
    try:
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of a fresh database on a real PostgreSQL server."""
    pytest.importorskip("psycopg")
    return postgres_server.url(postgres_server.database())


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
