"""How often a load test gives up a candidate that it should not, and how soon one that it should.

Simulated levels of 300 requests whose true statistic is exactly the limit (so each that is given up
is an error; the rule states at most 1 %), and of candidates 1.5 and 2 times as slow. Latencies are
independent (exponential, lognormal, one in fifty twenty times as long), alike (lognormal, whose
neighbours correlate by 0.5 or 0.8), or of clients or arrivals that queue for servers. Certain
losses, which end a level too, are left out::

    python benchmarks/load_race.py [--paths 2000]
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import fmean, median, quantiles
from typing import TypeAlias

from pytest_autotune.load.race import ALPHA, MIN_BLOCK, OPEN_BLOCK, Bets, LevelRace

REQUESTS = 300
STATISTICS = ("mean", "p50", "p90", "p99")
SLOWER = (1.0, 1.5, 2.0)
#: Requests for the true value of a statistic.
MANY = 400_000

Run: TypeAlias = Callable[[random.Random, int], Sequence[float]]


def exponential(rng: random.Random) -> Iterator[float]:
    """Yield independent latencies."""
    while True:
        yield rng.expovariate(1)


def two_scales(rng: random.Random) -> Iterator[float]:
    """Yield latencies of which one in fifty is twenty times as long."""
    while True:
        yield rng.expovariate(1) * (20 if rng.random() < 0.02 else 1)


def lognormal(rng: random.Random, correlation: float) -> Iterator[float]:
    """Yield latencies that follow their neighbours."""
    state = rng.gauss(0, 1)
    while True:
        yield math.exp(state)
        state = correlation * state + rng.gauss(0, math.sqrt(1 - correlation**2))


def queued(rng: random.Random, count: int, servers: int, clients: int, load: float) -> list[float]:
    """Return latencies in the order of answers, without those that a closed loop begins with.

    Of ``clients`` that ask again at once, or (none) of arrivals at random.
    """
    free, arrived, found = [0.0] * servers, 0.0, []
    asking = [0.0] * clients
    for number in range(count + clients):
        if clients:
            at = heapq.heappop(asking)
        else:
            at = arrived = arrived + rng.expovariate(load * servers)
        done = max(at, heapq.heappop(free)) + rng.expovariate(1)
        heapq.heappush(free, done)
        if clients:
            heapq.heappush(asking, done)
        if number >= clients:
            found.append((done, done - at))
    return [latency for _, latency in sorted(found)]


def drawn(draws: Callable[[random.Random], Iterator[float]]) -> Run:
    """Return what takes so many of ``draws``."""
    return lambda rng, count: list(islice(draws(rng), count))


def closed(clients: int, servers: int) -> Run:
    """Return a closed loop."""
    return lambda rng, count: queued(rng, count, servers, clients, 0.0)


def opened(load: float) -> Run:
    """Return an open loop whose servers are busy for a share of ``load``."""
    return lambda rng, count: queued(rng, count, 4, 0, load)


#: Name, block size and latencies of each kind of level.
KINDS: Sequence[tuple[str, int, Run]] = [
    ("exponential", MIN_BLOCK, drawn(exponential)),
    ("lognormal", MIN_BLOCK, drawn(lambda rng: lognormal(rng, 0.0))),
    ("two scales", MIN_BLOCK, drawn(two_scales)),
    ("alike, 0.5", MIN_BLOCK, drawn(lambda rng: lognormal(rng, 0.5))),
    ("alike, 0.8", MIN_BLOCK, drawn(lambda rng: lognormal(rng, 0.8))),
    ("4 clients, 1 server", 4, closed(4, 1)),
    ("8 clients, 4 servers", 8, closed(8, 4)),
    ("16 clients, 4 servers", 16, closed(16, 4)),
    ("32 clients, 8 servers", 32, closed(32, 8)),
    ("arrivals, load 0.5", OPEN_BLOCK, opened(0.5)),
    ("arrivals, load 0.8", OPEN_BLOCK, opened(0.8)),
]


def lost_after(values: Sequence[float], race: LevelRace) -> int:
    """Return after how many requests a race is lost, 0 if never."""
    bets = Bets(block=race.block)
    for count, value in enumerate(values, start=1):
        bets.add(race.share(value))
        if count % race.block == 0 and bets.won(race.alpha):
            return count
    return 0


def true_value(run: Run, statistic: str) -> float:
    """Return the statistic of very many requests."""
    values = run(random.Random("true"), MANY)
    share = statistic.removeprefix("p")
    return fmean(values) if statistic == "mean" else quantiles(values, n=100)[int(share) - 1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", type=int, default=2000)
    paths = parser.parse_args().paths
    head = "  ".join(f"{f'x{slower:g}':>16}" for slower in SLOWER)
    print(
        f"given up at an alpha of {ALPHA:.0%}, and after how many of {REQUESTS} requests (median)"
    )
    print(f"{'latencies':24}{'statistic':10}{head}")
    for name, block, run in KINDS:
        for statistic in STATISTICS:
            limit = true_value(run, statistic)
            cells = []
            for slower in SLOWER:
                race = LevelRace(
                    metric="e2e_latency", statistic=statistic, limit=limit / slower, block=block
                )
                rng = random.Random(f"{name} {statistic} {slower}")
                count = paths if slower == 1 else max(1, paths // 10)
                found = [lost_after(run(rng, REQUESTS), race) for _ in range(count)]
                lost = [after for after in found if after]
                after = f"{median(lost):.0f}" if lost else "-"
                cells.append(f"{len(lost) / count:>9.2%} {after:>6}")
            print(f"{name:24}{statistic:10}{'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
