"""A PostgreSQL server of our own, which a test may kill."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Seconds that a server may take to end, or to recover from its death.
_PATIENCE: Final = 60.0


class NoPostgres(Exception):
    """There is none on this machine, or nobody to run it as."""


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, None where they are not installed."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    return next((path for path in candidates if (path / "initdb").exists()), None)


class Postgres:
    """A server on a socket in a temporary folder, from :meth:`start` to :meth:`remove`."""

    def __init__(self) -> None:
        """Make its data; raise :class:`NoPostgres`."""
        found = programs()
        if found is None:
            raise NoPostgres("no PostgreSQL is installed")
        self._programs = found
        # PostgreSQL refuses to run as root.
        self._user = None
        if os.geteuid() == 0:
            try:
                self._user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                raise NoPostgres("there is no user 'postgres' to run PostgreSQL as") from None
        # Not under tmp_path: a socket's path must be short, and its folder open to that user.
        self.folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
        self._data = self.folder / "data"
        try:
            if self._user is not None:
                shutil.chown(self.folder, self._user)
            self._run("initdb", "-U", "tester", "--auth=trust", "--no-sync")
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop the server at once."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """Start a server that was killed, once the last of it is gone."""
        deadline = time.monotonic() + _PATIENCE
        if self.pid is not None:
            with suppress(subprocess.CalledProcessError):
                self.stop()
        while True:
            try:
                self.start()
            except subprocess.CalledProcessError:
                # Connections that outlived it still use its memory.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def remove(self) -> None:
        """Remove all of a server that was stopped."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The process that all others of the server descend from, None where it does not run."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)

    def database(self) -> str:
        """Make a database, and return its name."""
        import psycopg

        name = f"study_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def conninfo(self, database: str) -> str:
        """Return how psycopg connects to a database."""
        return f"host={self.folder} user=tester dbname={database}"

    def url(self, database: str) -> str:
        """Return the URL of a database, with a password that nobody asks for."""
        return f"postgresql+psycopg://tester:s3cr3t-word@/{database}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), "-D", str(self._data), *arguments],
            check=True,
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=None if program == "initdb" else subprocess.DEVNULL,
        )
