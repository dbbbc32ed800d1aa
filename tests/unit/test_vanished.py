"""A machine that vanished, with no goodbye to the database: its locks end within about a minute.

Measured with a network namespace whose link was cut while a process in it held a lock: 54 s; with
PostgreSQL's defaults it was still held when the measurement ended, after 150 s.
"""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy

from pytest_autotune.system import locks
from pytest_autotune.system.locks import DatabaseCoordinator


def test_the_connection_of_locks_asks_the_server_to_see_that_its_client_is_there(
    postgres_url: str,
) -> None:
    found: dict[str, str] = {}

    def listen(*event: Any) -> None:
        if "set_config" in event[2]:
            found[event[3]["name"]] = event[3]["value"]

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", listen)
    try:
        coordinator = DatabaseCoordinator(postgres_url, "study")
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", listen)
    coordinator.release()
    # On a socket of this machine the server accepts them, and has no use for them.
    idle, interval, count = (
        int(found[f"tcp_keepalives_{name}"]) for name in ("idle", "interval", "count")
    )
    assert 20 <= idle + interval * count <= 60
    # What the server has sent and nobody acknowledges; in milliseconds.
    assert int(found["tcp_user_timeout"]) == 60_000


def test_a_server_that_does_not_know_a_setting_is_no_problem(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As PostgreSQL 11 does not know tcp_user_timeout.
    settings = {"tcp_of_a_later_version": "1", **locks._SERVER_SETTINGS}
    monkeypatch.setattr(locks, "_SERVER_SETTINGS", settings)
    coordinator = DatabaseCoordinator(postgres_url, "study")
    try:
        shown = coordinator._connection.execute(sqlalchemy.text("SHOW lock_timeout")).scalar()
        assert shown == "200ms"
    finally:
        coordinator.release()
