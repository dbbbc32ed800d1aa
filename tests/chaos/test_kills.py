"""Killed anywhere, whatever it is, a study goes on: nothing lost, nothing twice, nothing left.

Each test kills one study a few times, at moments that its id repeats. The table of all kills is
shown at the end of ``pytest tests/chaos -m slow``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from dockerd import IMAGE, Dockerd, NoEngine
from killing import Attack
from postgres import NoPostgres, Postgres
from required import unavailable
from serving import SCRIPTED, process
from sizes import LONG, size
from strikes import (
    KINDS,
    WITHIN,
    Engines,
    strike_claim,
    strike_container,
    strike_dockerd,
    strike_finish,
    strike_postgres,
    strike_pytest,
    strike_server,
    strike_terminal,
    strike_worker,
)
from victims import Layout, Victim, spec_of

from pytest_autotune.scoring.records import TrialRecord

pytestmark = pytest.mark.slow

SERIAL: Final = Layout(name="serial")
WORKERS: Final = Layout(name="workers", workers=2)
DATABASE: Final = Layout(name="database", postgres=True)
FLEET: Final = Layout(name="database-workers", postgres=True, workers=2)
SERVED: Final = Layout(name="server", server="process")
SERVED_WORKERS: Final = Layout(name="server-workers", server="process", workers=2)
CONTAINED: Final = Layout(name="container", server="docker")
SESSIONS: Final = Layout(name="3-sessions", sessions=3)
SESSIONS_DATABASE: Final = Layout(name="2-sessions-workers", sessions=2, workers=2, postgres=True)
Strike = Callable[[Attack, str, Engines], bool]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Kills of one target, in every kind and every layout: so many points of each."""

    target: str
    strike: Strike
    layouts: Sequence[Layout]
    kinds: Sequence[str] = tuple(KINDS)
    #: Studies of each kind and layout in the long form, and kills of each study.
    studies: int = 2
    kills: int = 4
    #: The kinds that the short form tries, each in one of the layouts.
    short: int = 1
    early: bool = False
    ends_run: bool = True
    may_fail: bool = False


PLANS: Final = (
    Plan(
        target="pytest", strike=strike_pytest, early=True, short=4,
        layouts=[SERIAL, WORKERS, DATABASE, FLEET, SERVED, SERVED_WORKERS, CONTAINED],
    ),
    Plan(
        target="terminal", strike=strike_terminal, early=True,
        layouts=[WORKERS], kinds=["SIGINT", "SIGINT-twice", "SIGTERM", "SIGKILL"],
    ),
    Plan(
        target="session", strike=strike_pytest, kinds=["SIGKILL", "SIGINT"],
        layouts=[SESSIONS, SESSIONS_DATABASE], kills=2, ends_run=False,
    ),
    Plan(target="worker", strike=strike_worker, layouts=[WORKERS, FLEET], ends_run=False, short=2),
    Plan(
        target="server", strike=strike_server, layouts=[SERVED], ends_run=False, may_fail=True,
        short=2,
    ),
    Plan(
        target="container", strike=strike_container, layouts=[CONTAINED], ends_run=False,
        may_fail=True,
    ),
    Plan(
        target="dockerd", strike=strike_dockerd, layouts=[CONTAINED], ends_run=False, kills=2,
        may_fail=True,
    ),
    Plan(target="postgres", strike=strike_postgres, layouts=[DATABASE, FLEET], short=2),
    Plan(target="claim", strike=strike_claim, kinds=WITHIN, layouts=[DATABASE, FLEET]),
    Plan(target="finish", strike=strike_finish, kinds=WITHIN, layouts=[DATABASE, FLEET]),
)  # fmt: skip


def _points() -> Iterator[Any]:
    """Yield every study: its plan, the kind of kill, its layout, and its number among those."""
    for plan in PLANS:
        for at, kind in enumerate(plan.kinds):
            for place, layout in enumerate(plan.layouts):
                # Spread over both, so that a few points see as much as they can.
                is_short = at < plan.short and place == at % len(plan.layouts)
                for number in range(size(int(is_short), plan.studies)):
                    name = f"{plan.target}-{kind}-{layout.name}-{number}"
                    yield pytest.param(plan, kind, layout, number, id=name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that only these tests use, as they kill it."""
    try:
        server = Postgres()
    except NoPostgres as error:
        unavailable("postgres", str(error))
        return
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """An engine that only these tests use, as they kill it."""
    try:
        engine = Dockerd()
    except NoEngine as error:
        unavailable("docker", str(error))
        return
    try:
        engine.start()
        engine.load()
        yield engine
    except NoEngine as error:
        unavailable("docker", str(error))
    finally:
        engine.stop()
        engine.remove()


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Runs that nobody killed: their trials by strategy, and the seconds to the first one."""

    trials: Mapping[str, Sequence[TrialRecord]]
    startup: float


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Serial runs that nobody killed."""
    found, startup = {}, 0.0
    for layout in (SERIAL, Layout(name="random", workers=1)):
        folder = tmp_path_factory.mktemp("whole")
        alone = Victim(folder, layout=Layout(name=layout.name), spec=spec_of(layout))
        alone.prepare()
        began = time.monotonic()
        process_ = alone.started[alone.begin()]
        while not alone.count_marks() and process_.poll() is None:
            time.sleep(0.01)
        startup = time.monotonic() - began
        process_.wait(120)
        found[layout.strategy] = list(alone.stored().values())
    return Whole(trials=found, startup=startup)


@pytest.fixture
def victim(
    layout: Layout, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Victim, Engines]]:
    """A project in a layout, and the engines that it uses."""
    storage, variables, server, engines = None, {}, None, Engines()
    if layout.postgres:
        database: Postgres = request.getfixturevalue("postgres")
        name = database.database()
        engines, storage = Engines(postgres=database, database=name), database.url(name)
    if layout.server == "process":
        server = process()
    elif layout.server == "docker":
        engine: Dockerd = request.getfixturevalue("dockerd")
        engines, variables = Engines(dockerd=engine), {"DOCKER_HOST": engine.host}
        server = _contained()
    made = Victim(
        tmp_path,
        layout=layout,
        spec=spec_of(layout, server),
        storage=storage,
        variables=variables,
    )
    made.prepare()
    yield made, engines
    made.stop()


def _contained() -> dict[str, Any]:
    """Return a server block that runs this machine's Python in an image of empty folders."""
    base = sys.base_prefix
    folders = [path for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir()]
    if not base.startswith("/usr"):
        folders.append(base)
    return {
        "image": IMAGE,
        "network": "host",
        "volumes": [f"{path}:{path}" for path in folders] + [f"{SCRIPTED.parent}:/scripts"],
        "entrypoint": [f"{base}/bin/python3", "/scripts/scripted_server.py"],
        "command": ["--host", "{host}", "--port", "{port}"],
        "startup_timeout": 30,
        "stop_timeout": 2,
    }


@pytest.mark.parametrize(("plan", "kind", "layout", "number"), list(_points()))
def test_kills(  # noqa: PLR0913, PLR0917 - what a point is made of
    plan: Plan,
    kind: str,
    layout: Layout,
    number: int,
    victim: tuple[Victim, Engines],
    whole: Whole,
    record_property: Callable[[str, object], None],
) -> None:
    project, engines = victim
    seed = f"{plan.target} {kind} {layout.name} {number}"
    attack = Attack(
        victim=project,
        seed=seed,
        kills=plan.kills if LONG else 2,
        ends_run=plan.ends_run,
        may_fail=plan.may_fail,
        startup=whole.startup if plan.early else None,
    )
    if engines.postgres is not None and plan.target in {"postgres", "claim", "finish"}:
        attack.repair = engines.postgres.restart
    try:
        attack.run(lambda struck: plan.strike(struck, kind, engines))
        attack.compare_with(whole.trials[layout.strategy])
        attack.figures.left += _left_in(engines)
    finally:
        figures = {"target": plan.target, "kind": kind, **attack.figures.document()}
        record_property("chaos", figures)
    told = "\n".join(project.log_of(place) for place in range(len(project.started)))
    if plan.target in {"server", "container"}:
        assert attack.figures.failed <= attack.figures.points
    assert not attack.figures.faults(), "\n".join([*attack.figures.faults(), told])


def _left_in(engines: Engines) -> list[str]:
    """Return the containers, connections and locks that the last run left."""
    found = []
    if engines.dockerd is not None:
        client = engines.dockerd.client()
        found += [f"container {each.name}" for each in client.containers.list(all=True)]
        for each in client.containers.list(all=True):
            each.remove(force=True)
        client.close()
    if engines.postgres is not None:
        import psycopg

        with psycopg.connect(engines.postgres.conninfo(engines.database)) as connection:
            others = connection.execute(
                "SELECT query FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
            locks = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            ).fetchone()
        found += [f"a connection, last at {query}" for (query,) in others]
        found += [f"{locks[0]} locks of the database"] if locks and locks[0] else []
    return found
