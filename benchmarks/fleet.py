"""The constants by which a fleet grows: what one process costs its database, and what it holds.

For a study of so many finished trials on PostgreSQL, one process that comes to it prints

- the size of a trial in the database, and what reading it computes, beyond what a process of an
  empty study takes;
- the statements of a claim and of a finish, what a claim computes, how long it holds the study's
  lock, and the connections that it keeps open;
- what a proposal by ``auto`` computes.

Times are of this process's processor, so that they hold on a busy machine, too; but the lock's is
real, and that of a quiet one.

::

    python benchmarks/fleet.py
    python benchmarks/fleet.py --sizes 1000,20000

``examples/fleet/scale.md`` reasons with these figures. POSIX only. Needs PostgreSQL's programs
(Debian: ``postgresql``) and psycopg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scale import Ours, Place, fill, postgres

_TRIALS = 20


def look(place: Place, strategy: str) -> dict[str, Any]:
    """Come to a study in this process, run some trials, and return what that took."""
    import sqlalchemy

    statements: Counter[str] = Counter()
    part = "open"

    @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
    def count(*_: object) -> None:
        statements[part] += 1

    # What is loaded in any case is no part of what trials take.
    with tempfile.TemporaryDirectory() as folder:
        warm = Ours(Place(name="journal", url=None, folder=Path(folder)), strategy)
        warm.finish(warm.claim())
        warm.close()
    began = time.process_time()
    own = Ours(place, strategy)
    own.finish(own.claim())
    first = time.process_time() - began
    held, proposals = _watched(own)
    claims: list[float] = []
    for _ in range(_TRIALS):
        part, begin = "claim", time.process_time()
        record = own.claim()
        claims.append(time.process_time() - begin)
        part = "finish"
        own.finish(record)
    part = "close"
    connections = _connections(place)
    own.close()
    return {
        "first": first, "connections": connections,
        "held": statistics.median(held), "claim": statistics.median(claims),
        "proposal": statistics.median(proposals),
        "claims": statements["claim"] / _TRIALS, "finishes": statements["finish"] / _TRIALS,
    }  # fmt: skip


def _watched(own: Ours) -> tuple[list[float], list[float]]:
    """Return lists that fill with the seconds of locks and of proposals."""
    coordinator, strategy = own.study._store.coordinator, own.study._strategy  # noqa: SLF001
    take, give, propose = coordinator._take, coordinator._give, strategy.propose  # noqa: SLF001
    held: list[float] = []
    proposals: list[float] = []
    since = 0.0

    def taken() -> bool:
        nonlocal since
        found: bool = take()
        since = time.perf_counter()
        return found

    def given() -> object:
        held.append(time.perf_counter() - since)
        return give()

    def proposed(*args: Any) -> Any:
        begin = time.process_time()
        found = propose(*args)
        proposals.append(time.process_time() - begin)
        return found

    coordinator._take, coordinator._give, strategy.propose = taken, given, proposed  # noqa: SLF001
    return held, proposals


def _query(place: Place, query: str) -> Any:
    import psycopg

    assert place.url is not None
    with psycopg.connect(place.url.replace("+psycopg", "")) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _connections(place: Place) -> int:
    everybody = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    return int(_query(place, everybody)) - 1


def _size(place: Place) -> int:
    return int(_query(place, "SELECT pg_database_size(current_database())"))


def main() -> None:
    """Print a table, one row for each number of trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--look", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        name, url, folder, strategy = json.loads(options.look)
        print(json.dumps(look(Place(name=name, url=url, folder=Path(folder)), strategy)))
        return
    print(
        "trials   KiB in the database, read in   claim: statements, ms, locked ms"
        "   finish: statements   connections   auto proposes in"
    )
    with tempfile.TemporaryDirectory() as root, postgres(Path(root)) as databases:
        for size in map(int, options.sizes.split(",")):
            with databases() as place:
                own, empty = Ours(place, "random"), _size(place)
                alone = _elsewhere(place, "random")
                fill(own, size)
                own.close()
                stored = (_size(place) - empty) / size / 1024
                found, auto = (_elsewhere(place, strategy) for strategy in ("random", "auto"))
            read = found["first"] - alone["first"]
            print(
                f"{size:<8,} {stored:>19.1f}"
                f" {1e3 * read / size:>6.2f} ms {found['claims']:>18.0f}"
                f" {1e3 * found['claim']:>4.1f} {1e3 * found['held']:>9.1f}"
                f" {found['finishes']:>20.0f} {found['connections']:>13}"
                f" {1e3 * auto['proposal']:>14.0f} ms",
                flush=True,
            )


def _elsewhere(place: Place, strategy: str) -> dict[str, Any]:
    """Return what a process of its own finds, so that its memory is that of nothing else."""
    arguments = json.dumps([place.name, place.url, str(place.folder), strategy])
    result = subprocess.run(
        [sys.executable, __file__, "--look", arguments], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


if __name__ == "__main__":
    main()
