"""The state of a running level: its requests, and bounds on those still to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from time import perf_counter

from pytest_autotune.load.connection import Connection, Exchange
from pytest_autotune.load.job import Job
from pytest_autotune.load.statistics import RequestRecord


class LevelState:
    """The requests of a level, from the first to the last.

    ``due`` are the times that requests of an open loop are due. ``running`` maps the requests in
    flight to their connections, None while there is none yet. ``failures`` were in a row.
    """

    def __init__(self, job: Job, due: Sequence[float]) -> None:
        self.job = job
        self.due = due
        self.running: dict[Exchange, Connection | None] = {}
        self.finished: list[RequestRecord] = []
        self.gaps: list[float] = []
        self.issued = 0
        self.began = 0.0
        self.fastest = float("inf")
        self.failures = 0
        self.last_success = 0.0

    def begin(self) -> None:
        """Note the time at which the level begins."""
        self.began = self.last_success = perf_counter()

    def record(self, exchange: Exchange) -> RequestRecord | None:
        """Record a request that is over, and return it; None if it never went out."""
        stamps = exchange.stamps
        now = perf_counter()
        cut = exchange.error == "cut"
        if cut and not exchange.sent:
            return None
        ok = not exchange.error
        request = RequestRecord(
            scheduled=exchange.scheduled if self.due else exchange.sent or exchange.scheduled,
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
        self.finished.append(request)
        if ok:
            self.failures, self.last_success = 0, now
            self.gaps.extend(b - a for a, b in pairwise(stamps))
            self.fastest = min(self.fastest, request.e2e_latency or self.fastest)
        elif not cut:
            self.failures += 1
        return request

    def at_most(self, now: float) -> int:
        """Return the largest number of requests that there can be in the end.

        With a time limit alone, it is as many as fit if all to come are as fast as the fastest.
        """
        job = self.job
        if self.due:
            return len(self.due)
        bounds = [job.max_requests] if job.max_requests is not None else []
        if job.max_time is not None and self.fastest < float("inf"):
            left = max(0.0, self.began + job.max_time - now)
            more = (job.concurrency or 1) * (left / max(self.fastest, 1e-6) + 1)
            bounds.append(self.issued + int(min(more, 1e9)))
        return min(bounds, default=10**9)

    def so_far(self, metric: str, now: float) -> Iterator[float]:
        """Yield lower bounds of what running requests will take."""
        if metric not in {"ttft", "e2e_latency"}:
            return
        for exchange in self.running:
            if not exchange.sent or exchange.error:
                continue
            until = now
            if exchange.stamps and metric == "ttft":
                until = exchange.stamps[0]
            elif exchange.stamps and exchange.finished:
                until = exchange.stamps[-1]
            yield until - (exchange.scheduled if self.due else exchange.sent)
