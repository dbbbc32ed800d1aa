"""A machine that vanished, with no goodbye to the database: its locks end within about a minute.

Measured with a network namespace whose link was cut while a process in it held a lock: 54 s; with
PostgreSQL's defaults it was still held when the measurement ended, after 150 s.
"""

from __future__ import annotations

import re

import sqlalchemy

from pytest_autotune.system.locks import DatabaseCoordinator


def test_the_connection_of_locks_asks_the_server_to_see_that_its_client_is_there(
    postgres_url: str,
) -> None:
    said: list[str] = []

    def listen(*event: object) -> None:
        said.append(str(event[2]))

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", listen)
    try:
        coordinator = DatabaseCoordinator(postgres_url, "study")
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", listen)
    coordinator.release()
    # On a socket of this machine the server accepts them, and has no use for them.
    found = dict(re.findall(r"SET (tcp_\w+) = '(\d+)'", "\n".join(said)))
    idle, interval, count = (
        int(found[f"tcp_keepalives_{name}"]) for name in ("idle", "interval", "count")
    )
    assert 20 <= idle + interval * count <= 60
    # What the server has sent and nobody acknowledges; in milliseconds.
    assert int(found["tcp_user_timeout"]) == 60_000
