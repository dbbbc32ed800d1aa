"""The client of one level: it sends requests in closed or open loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Final

from pytest_autotune.bench.host import quiet_collector
from pytest_autotune.bench.statistics import quantile
from pytest_autotune.load.connection import Connection, Exchange
from pytest_autotune.load.connections import Connections
from pytest_autotune.load.early_end import EarlyEnd
from pytest_autotune.load.job import Job
from pytest_autotune.load.level_state import LevelState
from pytest_autotune.load.prompts import Tokenizer
from pytest_autotune.load.statistics import ClientHealth, LevelRun
from pytest_autotune.load.traffic import PreparedRequests, due_times
from pytest_autotune.text.durations import duration

_LAG_SECONDS: Final = 0.01
_CHECK_SECONDS: Final = 0.1
#: A request that has no connection by then has failed, however long it may wait for its answer.
_CONNECT_SECONDS: Final = 10.0
#: Connections that are made near a level's end, or before it begins, may take this long.
_BRIEF_SECONDS: Final = 1.0
#: How long a client waits after a failure, doubling from the first to the last.
_FIRST_PAUSE: Final = 0.05
_LAST_PAUSE: Final = 1.0


class LevelRunner:
    """One level, while it runs."""

    def __init__(
        self,
        job: Job,
        connections: Connections,
        prepared: PreparedRequests,
        due: Sequence[float] = (),
    ) -> None:
        self._job = job
        self._connections = connections
        self._prepared = prepared
        self._state = LevelState(job, due)
        self._early_end = EarlyEnd(self._state)
        self._stopped = ""
        self._lags: list[float] = []

    async def run(self) -> LevelRun:
        """Run the level to its end."""
        loop = asyncio.get_running_loop()
        watch = loop.create_task(self._watch())
        lag = loop.create_task(self._measure_lag())
        self._state.begin()
        cpu = time.process_time()
        try:
            if self._job.request_rate is None:
                await asyncio.gather(*(self._client() for _ in range(self._job.concurrency or 1)))
            else:
                await self._arrive()
        finally:
            wall, cpu = perf_counter() - self._state.began, time.process_time() - cpu
            for task in (watch, lag):
                task.cancel()
            await asyncio.gather(watch, lag, return_exceptions=True)
        lags = sorted(self._lags)
        late = sorted(r.sent - r.scheduled for r in self._state.finished if r.sent) or [0.0]
        return LevelRun(
            requests=sorted(self._state.finished, key=lambda request: request.scheduled),
            gaps=self._state.gaps,
            ended_early=self._stopped,
            lost=self._early_end.race_lost,
            client=ClientHealth(
                cpu=cpu / wall if wall > 0 else 0.0,
                lag_p99=quantile(lags, 0.99) if lags else 0.0,
                late_p99=quantile(late, 0.99),
            ),
        )

    # Closed and open loop

    async def _client(self) -> None:
        pause = _FIRST_PAUSE
        while self._may_issue():
            self._state.issued += 1
            if await self._request(perf_counter()):
                pause = _FIRST_PAUSE
            else:
                # A server that refuses at once must not be asked a thousand times a second.
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)

    def _may_issue(self) -> bool:
        job = self._job
        return not (
            self._stopped
            or (job.max_requests is not None and self._state.issued >= job.max_requests)
            or (job.max_time is not None and perf_counter() - self._state.began >= job.max_time)
        )

    async def _arrive(self) -> None:
        tasks: set[asyncio.Task[bool]] = set()
        for offset in self._state.due:
            due = self._state.began + offset
            wait = due - perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._stopped:
                break
            self._state.issued += 1
            # From when it was due: waiting for a slow client, or a connection, is latency too.
            task = asyncio.ensure_future(self._request(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.gather(*tasks)

    # One request

    async def _request(self, due: float) -> bool:
        """Send one request and record it; return whether it succeeded."""
        number = self._state.issued
        data = self._prepared.next()
        deadline = perf_counter() + self._job.timeout
        exchange = await self._attempt(due, data, deadline)
        if exchange.error == "stale":
            # The server closed an idle connection; any client sends again, once.
            exchange = await self._attempt(due, data, deadline)
        request = self._state.record(exchange)
        if request is not None and not request.cut:
            self._early_end.count(request, number)
        return not exchange.error

    async def _attempt(self, due: float, data: bytes, deadline: float) -> Exchange:
        exchange = Exchange(due, asyncio.get_running_loop().create_future())
        if self._stopped:
            exchange.fail("cut")
            return exchange
        self._state.running[exchange] = None
        try:
            connection = self._connections.idle()
            if connection is None:
                seconds = self._patience(deadline)
                connection = await asyncio.wait_for(self._connections.connect(), seconds)
            await self._exchange(exchange, connection, data, deadline)
            self._connections.give(connection)
        except ConnectionRefusedError as error:
            exchange.fail("connection refused", str(error))
        except asyncio.TimeoutError:
            exchange.fail("timeout", f"no connection was made within {duration(seconds)}")
        except OSError as error:
            exchange.fail("connection failed", str(error))
        finally:
            del self._state.running[exchange]
        return exchange

    def _patience(self, deadline: float) -> float:
        """Return how long a request may wait for a connection, in seconds.

        A level that is over waits for answers, but not for connections.
        """
        now = perf_counter()
        left = deadline - now
        if self._job.max_time is not None:
            level = self._state.began + self._job.max_time - now
            left = min(left, max(_BRIEF_SECONDS, level))
        return max(0.0, min(left, _CONNECT_SECONDS))

    async def _exchange(
        self, exchange: Exchange, connection: Connection, data: bytes, deadline: float
    ) -> None:
        if self._stopped:
            exchange.fail("cut")
            return
        self._state.running[exchange] = connection
        timer = asyncio.get_running_loop().call_later(
            deadline - perf_counter(), connection.expire, self._job.timeout
        )
        try:
            connection.send(exchange, data)
            await exchange.done
        finally:
            timer.cancel()

    # Watching the level

    async def _watch(self) -> None:
        while not self._stopped:
            await asyncio.sleep(_CHECK_SECONDS)
            self._stopped = self._early_end.reason()
        for exchange, connection in list(self._state.running.items()):
            if connection is not None and not exchange.done.done():
                connection.abort("cut")

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            # The selector counts in milliseconds and rounds up.
            self._lags.append(max(0.0, loop.time() - due))


async def run_level(job: Job, tokenizer: Tokenizer | None = None) -> LevelRun:
    """Warm up, then run the level of ``job``."""
    connections = Connections(job.url)
    due = due_times(job)
    count = len(due) if due else job.max_requests
    # At the level's own concurrency, as engines compile for a batch size.
    warm = replace(
        job,
        request_rate=None,
        concurrency=job.concurrency or min(job.warmup, 16),
        max_requests=job.warmup,
        max_time=None,
        limits=(),
        race=None,
    )
    clients = job.concurrency or 0
    try:
        await _connect_ahead(connections, max(clients, warm.concurrency or 0))
        # A server that takes no connection cannot be warmed up, and the level will tell why.
        if job.warmup and len(connections):
            prepared = PreparedRequests(warm, job.warmup, "warm-up", tokenizer)
            await LevelRunner(warm, connections, prepared).run()
            await _connect_ahead(connections, clients)
        prepared = PreparedRequests(job, count, "load", tokenizer)
        runner = LevelRunner(job, connections, prepared, due)
        # The collector would pause the event loop, so it runs now, not meanwhile.
        gc.collect()
        with quiet_collector():
            return await runner.run()
    finally:
        connections.close()


async def _connect_ahead(connections: Connections, count: int) -> None:
    """Connect before the level begins, as a client that keeps its connections is.

    The first failure ends it, and so does time: the requests connect by themselves, and say why
    they cannot.
    """
    until = perf_counter() + _CONNECT_SECONDS
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        for _ in range(count - len(connections)):
            if perf_counter() > until:
                break
            connections.give(await asyncio.wait_for(connections.connect(), _BRIEF_SECONDS))
