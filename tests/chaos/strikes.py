"""Ways to kill: pytest, workers, sessions, servers, an engine, a database in mid-statement."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dockerd import Dockerd
from killing import Attack, children
from postgres import Postgres

#: By name: the signal, and how often it is sent.
KINDS: Final[Mapping[str, tuple[signal.Signals, int]]] = {
    "SIGKILL": (signal.SIGKILL, 1),
    "SIGTERM": (signal.SIGTERM, 1),
    "SIGINT": (signal.SIGINT, 1),
    "SIGINT-twice": (signal.SIGINT, 2),
}


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What may be killed besides runs of pytest, where a study uses it."""

    postgres: Postgres | None = None
    database: str = ""
    dockerd: Dockerd | None = None


def send(attack: Attack, kind: str, target: Callable[[signal.Signals], object]) -> bool:
    """Send the signal of a kind to ``target``, as often as it says."""
    number, times = KINDS[kind]
    for time_ in range(times):
        if time_:
            time.sleep(attack.rng.uniform(0, 0.3))
        with suppress(ProcessLookupError):
            target(number)
    return True


def _one_of(attack: Attack, find: Callable[[], Iterable[int]], kind: str) -> bool:
    """Wait for processes, and send the signal to one of them."""
    found = attack.wait(lambda: sorted(find()))
    if not found:
        return False
    pid = attack.rng.choice(found)
    return send(attack, kind, lambda number: os.kill(pid, number))


def strike_pytest(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill the process that was started from the command line, in one of the sessions."""
    alive = attack.alive
    return bool(alive) and send(attack, kind, attack.rng.choice(alive).send_signal)


def strike_terminal(attack: Attack, kind: str, engines: Engines) -> bool:
    """Send the signal to all processes of a run, as Ctrl-C in a terminal does."""
    alive = attack.alive
    return bool(alive) and send(attack, kind, lambda number: os.killpg(alive[0].pid, number))


def strike_worker(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill one of the processes of pytest-xdist."""
    return _one_of(attack, lambda: [c for run in attack.alive for c in children(run.pid)], kind)


def strike_server(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill a server, or the process that watches over it."""

    def found() -> list[int]:
        return [pid for pid in attack.victim.processes() if _is_server(pid)]

    return _one_of(attack, found, kind)


def _is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"scripted_server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def strike_container(attack: Attack, kind: str, engines: Engines) -> bool:
    """Send the signal to a container's first process, by its engine."""
    import docker

    assert engines.dockerd is not None, "the study has containers"
    client = engines.dockerd.client()
    try:
        found = attack.wait(client.containers.list)
        if not found:
            return False

        def kill(number: signal.Signals) -> None:
            # It may have ended meanwhile.
            with suppress(docker.errors.APIError):
                found[0].kill(signal=int(number))

        return send(attack, kind, kill)
    finally:
        client.close()


def strike_dockerd(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill the engine; it is started again at once, as a system's init does."""
    dockerd = engines.dockerd
    assert dockerd is not None, "the study has containers"
    hit = not attack.over and send(attack, kind, dockerd.signal)
    if hit:
        dockerd.restart()
    return hit


def strike_postgres(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill the database's server."""
    assert engines.postgres is not None, "the study is in a database"
    return not attack.over and send(attack, kind, engines.postgres.signal)


#: The statements that a lock of the table of trials makes wait, in the middle of a transaction.
_STATEMENTS: Final = {
    "claim": re.compile(r"^INSERT INTO trials\b", re.IGNORECASE),
    "finish": re.compile(r"^UPDATE trials\b|FROM trials\b.*FOR UPDATE", re.IGNORECASE | re.DOTALL),
}
_BLOCKED: Final = """
    SELECT pid, query FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query NOT LIKE '%advisory%'
"""


def _strike_within(step: str, attack: Attack, kind: str, engines: Engines) -> bool:
    """Let a statement wait for a lock that is held here, and kill its session meanwhile."""
    import psycopg

    postgres = engines.postgres
    assert postgres is not None, "the study is in a database"
    where = postgres.conninfo(engines.database)
    try:
        with psycopg.connect(where) as holder, psycopg.connect(where, autocommit=True) as watcher:
            pid = attack.wait(lambda: _blocked(step, holder, watcher))
            if pid is None:
                return False
            _kill_session(attack, kind, postgres, watcher, pid)
    except psycopg.OperationalError:
        # Our own connections end with the server.
        return True
    return True


def _blocked(step: str, holder: Any, watcher: Any) -> int | None:
    """Hold the table for a moment; return the backend that waits for it in the wanted step."""
    import psycopg

    try:
        holder.execute("LOCK TABLE trials IN EXCLUSIVE MODE")
    except psycopg.errors.UndefinedTable:
        holder.rollback()
        return None
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        for pid, query in watcher.execute(_BLOCKED).fetchall():
            if _STATEMENTS[step].search(query):
                return int(pid)
        time.sleep(0.005)
    holder.rollback()
    return None


def _kill_session(attack: Attack, kind: str, postgres: Postgres, watcher: Any, pid: int) -> None:
    match kind:
        case "backend-terminated":
            watcher.execute("SELECT pg_terminate_backend(%s)", [pid])
        case "backend-SIGKILL":
            # The server ends all other sessions, too, and recovers.
            os.kill(pid, signal.SIGKILL)
        case "server-SIGKILL":
            postgres.signal(signal.SIGKILL)
        case "pytest-SIGKILL":
            attack.victim.started[-1].kill()


def strike_claim(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill a session of the database in the middle of a claim."""
    return _strike_within("claim", attack, kind, engines)


def strike_finish(attack: Attack, kind: str, engines: Engines) -> bool:
    """Kill a session of the database in the middle of a finish."""
    return _strike_within("finish", attack, kind, engines)


WITHIN: Final = ("backend-terminated", "backend-SIGKILL", "server-SIGKILL", "pytest-SIGKILL")
