"""The traffic of a level: when its requests are due, and the requests themselves."""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any, Final
from urllib.parse import urlsplit

from pytest_autotune.load.job import PATHS, Job
from pytest_autotune.load.prompts import PromptSource, Tokenizer
from pytest_autotune.spec.scenario import Scenario

#: Requests are made ahead, up to this many and this much memory.
_AHEAD: Final = 2048
_AHEAD_BYTES: Final = 128 * 2**20


def arrivals(rate: float, seed: str) -> Iterator[float]:
    """Yield arrival times in seconds from 0 of a Poisson process of ``rate`` requests/s."""
    rng = random.Random(f"{seed}/arrivals")  # noqa: S311 - no secret depends on it
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        yield at


def due_times(job: Job) -> list[float]:
    """Return the times that the requests of an open loop are due, in seconds from its start."""
    if job.request_rate is None:
        return []
    end = math.inf if job.max_time is None else job.max_time
    times = islice(arrivals(job.request_rate, job.seed), job.max_requests)
    due = list(takewhile(lambda at: at <= end, times))
    # A level without a request would say nothing.
    return due or [0.0]


class PreparedRequests:
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
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in job.headers.items()),
        ]
        self._head = "\r\n".join(lines).encode("latin-1")
        self._ready: deque[bytes] = deque()
        ahead, size = min(count if count is not None else 256, _AHEAD), 0
        while len(self._ready) < ahead and size < _AHEAD_BYTES:
            self._ready.append(self._make())
            size += len(self._ready[-1])

    def next(self) -> bytes:
        """Return a whole request: head and body."""
        return self._ready.popleft() if self._ready else self._make()

    def _make(self) -> bytes:
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
        return b"%s\r\nContent-Length: %d\r\n\r\n%s" % (self._head, len(data), data)
