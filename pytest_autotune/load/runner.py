"""Drive one level of load and record every request of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import ssl
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

from pytest_autotune.load.connection import Connection, Exchange
from pytest_autotune.load.job import PATHS, Job
from pytest_autotune.load.limits import Tally
from pytest_autotune.load.prompts import FileTokenizer, PromptSource, Tokenizer
from pytest_autotune.load.race import Contest
from pytest_autotune.load.statistics import ClientHealth, LevelRun, RequestRecord, percentile
from pytest_autotune.load.traffic import arrivals
from pytest_autotune.spec.scenario import Scenario

_LAG_SECONDS: Final = 0.01
_CHECK_SECONDS: Final = 0.1
#: Bodies are made ahead, up to so many of them and so much memory.
_AHEAD: Final = 2048
_AHEAD_BYTES: Final = 128 * 2**20
#: How long a client waits after a failure, doubling from the first to the last.
_FIRST_PAUSE: Final = 0.05
_LAST_PAUSE: Final = 1.0
#: A level is given up after this many failures in a row (or two per client) over this time.
_HOPELESS_FAILURES: Final = 20
_HOPELESS_SECONDS: Final = 2.0
#: Open loop: when the backlog is looked at, and what makes it a hopeless one.
_SATURATION_SECONDS: Final = 5.0
_SATURATION_ARRIVALS: Final = 50
_SATURATION_BACKLOG: Final = 32
_SATURATION_SHARE: Final = 0.9
_SATURATION_RISE: Final = 1.1
#: Not before so many times the fastest request's latency.
_SATURATION_SERVICES: Final = 4


class Prepared:
    """The requests of a level in order, made ahead of time as far as memory allows."""

    def __init__(
        self, job: Job, count: int | None, stream: str, tokenizer: Tokenizer | None
    ) -> None:
        self._job = job
        self._draws = Scenario.parse(job.scenario).draws(f"{job.seed}/{stream}")
        self._prompts = PromptSource(f"{job.seed}/{stream}", tokenizer)
        self._made = 0
        split = urlsplit(job.url)
        lines = [
            f"POST {split.path.rstrip('/')}{PATHS[job.endpoint]} HTTP/1.1",
            f"Host: {split.netloc.rpartition('@')[2]}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            *(f"{name}: {value}" for name, value in job.headers.items()),
        ]
        self._head = "\r\n".join(lines).encode("latin-1")
        self._ready: deque[tuple[int, bytes]] = deque()
        ahead, size = min(count if count is not None else 256, _AHEAD), 0
        while len(self._ready) < ahead and size < _AHEAD_BYTES:
            wanted, data = self._make()
            size += len(data)
            self._ready.append((wanted, data))

    def next(self) -> tuple[int, bytes]:
        """Return how many tokens are wanted and the whole request, head and body."""
        return self._ready.popleft() if self._ready else self._make()

    def _make(self) -> tuple[int, bytes]:
        tokens, wanted = next(self._draws)
        prompt = self._prompts.text(tokens, self._made)
        self._made += 1
        body: dict[str, Any] = {
            "model": self._job.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": wanted,
            # So that random weights, or a chatty model, answer at the length that is asked for.
            "ignore_eos": True,
        }
        if self._job.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        body |= self._job.extra_body
        # A null takes a key away, for servers that refuse what they do not know.
        data = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
        return wanted, b"%s\r\nContent-Length: %d\r\n\r\n%s" % (self._head, len(data), data)


class Connections:
    """Keep-alive connections to one server."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        self._host = split.hostname or "127.0.0.1"
        self._ssl = ssl.create_default_context() if split.scheme == "https" else None
        self._port = split.port or (443 if self._ssl else 80)
        self._idle: deque[Connection] = deque()

    def idle(self) -> Connection | None:
        """Return an idle connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> Connection:
        """Return a new connection; raise OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._host, self._port, ssl=self._ssl
        )
        return connection

    def __len__(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    def give(self, connection: Connection) -> None:
        """Put a connection back."""
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()


class LevelRunner:
    """One level, while it runs."""

    def __init__(
        self, job: Job, pool: Connections, prepared: Prepared, due: Sequence[float]
    ) -> None:
        self._job = job
        self._pool = pool
        self._prepared = prepared
        self._due = due
        self._running: dict[Exchange, Connection | None] = {}
        self._finished: list[RequestRecord] = []
        self._gaps: list[float] = []
        self._issued = 0
        self._began = 0.0
        self._fastest = float("inf")
        self._failures = 0
        self._last_success = 0.0
        self._stopped = ""
        self._lags: list[float] = []
        self._backlogs: list[tuple[float, int, int]] = []
        self._tallies = [Tally(limit) for limit in job.limits]
        self._contest = None if job.race is None else Contest(job.race)
        self._out = False

    async def run(self) -> LevelRun:
        """Run the level to its end."""
        loop = asyncio.get_running_loop()
        watch = loop.create_task(self._watch())
        lag = loop.create_task(self._measure_lag())
        self._began = self._last_success = perf_counter()
        cpu = time.process_time()
        try:
            if self._job.request_rate is None:
                await asyncio.gather(*(self._client() for _ in range(self._job.concurrency or 1)))
            else:
                await self._arrive()
        finally:
            wall, cpu = perf_counter() - self._began, time.process_time() - cpu
            for task in (watch, lag):
                task.cancel()
            await asyncio.gather(watch, lag, return_exceptions=True)
        lags = sorted(self._lags)
        late = sorted(r.sent - r.scheduled for r in self._finished if r.sent) or [0.0]
        return LevelRun(
            requests=sorted(self._finished, key=lambda request: request.scheduled),
            gaps=self._gaps,
            ended_early=self._stopped,
            lost=self._out,
            client=ClientHealth(
                cpu=cpu / wall if wall > 0 else 0.0,
                lag_p50=percentile(lags, 0.5) if lags else 0.0,
                lag_p99=percentile(lags, 0.99) if lags else 0.0,
                late_p99=percentile(late, 0.99),
            ),
        )

    # Closed and open loop

    async def _client(self) -> None:
        pause = _FIRST_PAUSE
        while self._may_issue():
            self._issued += 1
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
            or (job.max_requests is not None and self._issued >= job.max_requests)
            or (job.max_time is not None and perf_counter() - self._began >= job.max_time)
        )

    async def _arrive(self) -> None:
        tasks: set[asyncio.Task[bool]] = set()
        for offset in self._due:
            due = self._began + offset
            wait = due - perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._stopped:
                break
            self._issued += 1
            # From when it was due: waiting for a slow client, or a connection, is latency too.
            task = asyncio.ensure_future(self._request(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.gather(*tasks)

    # One request

    async def _request(self, due: float) -> bool:
        """Send one request and record it; tell whether it succeeded."""
        number = self._issued
        wanted, data = self._prepared.next()
        exchange = await self._attempt(due, wanted, data)
        if exchange.error == "stale":
            # The server closed an idle connection; any client sends again, once.
            exchange = await self._attempt(due, wanted, data)
        self._record(exchange, number)
        return not exchange.error

    async def _attempt(self, due: float, wanted: int, data: bytes) -> Exchange:
        loop = asyncio.get_running_loop()
        exchange = Exchange(due, wanted, loop.create_future())
        if self._stopped:
            exchange.fail("cut")
            return exchange
        self._running[exchange] = None
        try:
            connection = self._pool.idle()
            if connection is None:
                connection = await asyncio.wait_for(self._pool.connect(), self._job.timeout)
        except ConnectionRefusedError as error:
            exchange.fail("connection refused", str(error))
            return exchange
        except asyncio.TimeoutError:
            exchange.fail("timeout", "no connection was made")
            return exchange
        except OSError as error:
            exchange.fail("connection failed", str(error))
            return exchange
        finally:
            if exchange.error:
                del self._running[exchange]
        if self._stopped:
            del self._running[exchange]
            self._pool.give(connection)
            exchange.fail("cut")
            return exchange
        self._running[exchange] = connection
        timer = loop.call_later(self._job.timeout, connection.abort, "timeout", "no answer in time")
        try:
            connection.send(exchange, data)
            await exchange.done
        finally:
            timer.cancel()
            del self._running[exchange]
        self._pool.give(connection)
        return exchange

    def _record(self, exchange: Exchange, number: int = 0) -> None:
        stamps = exchange.stamps
        now = perf_counter()
        cut = exchange.error == "cut"
        if cut and not exchange.sent:
            return  # It never went out.
        ok = not exchange.error
        request = RequestRecord(
            scheduled=exchange.scheduled if self._due else exchange.sent or exchange.scheduled,
            sent=exchange.sent,
            first=stamps[0] if stamps else None,
            last=stamps[-1] if stamps else None,
            ended=stamps[-1] if ok else now,
            input_tokens=exchange.input_tokens or 0,
            output_tokens=exchange.output_tokens or len(stamps),
            error="" if cut else exchange.error,
            detail=exchange.detail,
            cut=cut,
        )
        self._finished.append(request)
        if not cut:
            self._tally(request)
            if self._contest is not None:
                self._contest.add(request, number)
        if ok:
            self._failures, self._last_success = 0, now
            self._gaps.extend(b - a for a, b in pairwise(stamps))
            self._fastest = min(self._fastest, request.e2e_latency or self._fastest)
        elif not cut:
            self._failures += 1

    # What watches the level

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if not self._stopped:
                reason = self._lost() or self._saturated() or self._hopeless() or self._beaten()
                if reason:
                    self._stop(reason)

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        for exchange, connection in list(self._running.items()):
            if connection is not None and not exchange.done.done():
                connection.abort("cut")

    def _at_most(self, now: float) -> int:
        """Return how many requests there can be in the end.

        With a time limit alone, as many as fit if all to come were as fast as the fastest.
        """
        job = self._job
        if self._due:
            return len(self._due)
        bounds = [job.max_requests] if job.max_requests is not None else []
        if job.max_time is not None and self._fastest < float("inf"):
            left = max(0.0, self._began + job.max_time - now)
            more = (job.concurrency or 1) * (left / max(self._fastest, 1e-6) + 1)
            bounds.append(self._issued + int(min(more, 1e9)))
        return min(bounds, default=10**9)

    def _lost(self) -> str:
        now = perf_counter()
        at_most = self._at_most(now)
        for tally in self._tallies:
            known = tally.with_more(self._so_far(tally.limit.metric, now))
            if tally.limit.lost(known, at_most):
                return f"{tally.limit.label} is lost whatever follows, after {known.count} requests"
        return ""

    def _beaten(self) -> str:
        """Tell whether the race is lost, which is looked at last: it says least of the server."""
        if self._contest is None:
            return ""
        now = perf_counter()
        running = self._so_far(self._contest.race.metric, now)
        self._out = self._contest.lost(self._at_most(now), now - self._began, running)
        return "the trial cannot win" if self._out else ""

    def _so_far(self, metric: str, now: float) -> Iterator[float]:
        """Yield lower bounds of what running requests will take."""
        if metric not in {"ttft", "e2e_latency"}:
            return
        for exchange in self._running:
            if not exchange.sent or exchange.error:
                continue
            until = now
            if exchange.stamps and metric == "ttft":
                until = exchange.stamps[0]
            elif exchange.stamps and exchange.finished:
                until = exchange.stamps[-1]
            yield until - (exchange.scheduled if self._due else exchange.sent)

    def _tally(self, request: RequestRecord) -> None:
        for tally in self._tallies:
            metric = tally.limit.metric
            if metric == "error_rate":
                value: float | None = float(not request.ok)
            else:
                value = getattr(request, metric) if request.ok else None
            if value is not None:
                tally.add(value)

    def _hopeless(self) -> str:
        """Tell whether the server has been failing every request for a while."""
        enough = max(_HOPELESS_FAILURES, 2 * (self._job.concurrency or 0))
        now = perf_counter()
        if self._failures < enough or now - self._last_success < _HOPELESS_SECONDS:
            return ""
        # One that was not refused at once may yet succeed; its own time-out will tell.
        if any(e.sent and (e.started or now - e.sent > _LAST_PAUSE) for e in self._running):
            return ""
        last = next(r for r in reversed(self._finished) if r.error)
        return f"{self._failures} requests in a row failed ({last.error}: {last.detail})"

    def _saturated(self) -> str:
        """Tell whether an open loop's backlog grows without end.

        That is: in the last third of the time so far clearly fewer requests were answered than
        came, no more per second than in the third before, and the backlog is large and has
        doubled since half-time. While a level begins, the backlog grows as well, up to what a
        server holds that keeps up; but then so does the rate of answers.
        """
        if self._job.request_rate is None:
            return ""
        now = perf_counter() - self._began
        backlog = len(self._running)
        self._backlogs.append((now, self._issued, backlog))
        if (
            now < max(_SATURATION_SECONDS, _SATURATION_SERVICES * self._fastest)
            or self._issued < _SATURATION_ARRIVALS
            or backlog < _SATURATION_BACKLOG
        ):
            return ""
        one, half, two = (self._at(share * now) for share in (1 / 3, 1 / 2, 2 / 3))
        came = self._issued - two[1]
        answered = came - (backlog - two[2])
        before = (two[1] - one[1]) - (two[2] - one[2])
        if (
            backlog < 2 * half[2]
            or answered >= _SATURATION_SHARE * came
            or answered > _SATURATION_RISE * before
        ):
            return ""
        seconds = now - two[0]
        return (
            f"saturated: {came / seconds:.3g} requests/s came, {answered / seconds:.3g} were "
            f"answered, {backlog} are waiting"
        )

    def _at(self, seconds: float) -> tuple[float, int, int]:
        """Return time, arrivals and backlog of the first look from then on."""
        return self._backlogs[bisect_left(self._backlogs, (seconds, 0, 0))]

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            # The selector counts in milliseconds and rounds up.
            self._lags.append(max(0.0, loop.time() - due))


def due_times(job: Job) -> list[float]:
    """Return when the requests of an open loop are due, in seconds from its start."""
    if job.request_rate is None:
        return []
    times: Iterator[float] = arrivals(job.request_rate, job.seed)
    if job.max_requests is not None:
        times = islice(times, job.max_requests)
    due: list[float] = []
    for at in times:
        if job.max_time is not None and at > job.max_time:
            break
        due.append(at)
    # A level without a request would say nothing.
    return due or [0.0]


async def run_level(job: Job, tokenizer: Tokenizer | None = None) -> LevelRun:
    """Warm up, then run the level of ``job``."""
    pool = Connections(job.url)
    due = due_times(job)
    count = len(due) if due else job.max_requests
    try:
        if job.warmup:
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
            prepared = Prepared(warm, job.warmup, "warm-up", tokenizer)
            await LevelRunner(warm, pool, prepared, ()).run()
        prepared = Prepared(job, count, "load", tokenizer)
        # Connected beforehand, as a client that keeps its connections is.
        missing = (job.concurrency or 0) - len(pool)
        with contextlib.suppress(OSError):
            for _ in range(missing):
                pool.give(await pool.connect())
        runner = LevelRunner(job, pool, prepared, due)
        with _quiet_collector():
            return await runner.run()
    finally:
        pool.close()


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from pausing the event loop."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def load_tokenizer(name: str | None) -> Tokenizer | None:
    """Return the named tokenizer; raise ValueError saying what is missing."""
    return None if name is None else FileTokenizer(name)
