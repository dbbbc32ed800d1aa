"""The load generator's job: one level of load, as plain data."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_autotune.load.limits import Limit
from pytest_autotune.load.race import LevelRace
from pytest_autotune.spec.scenario import Endpoint

PATHS: Final[Mapping[Endpoint, str]] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One level of load on one endpoint.

    ``url`` is the server's, without ``/v1``. Closed loop: ``concurrency`` requests are kept
    running. Open loop: requests arrive at ``request_rate`` per second at random, whether or not
    earlier ones were answered. The level ends when ``max_requests`` were sent or after
    ``max_time`` seconds, and in-flight requests are waited for; or early, when one of
    ``limits`` or the ``race`` is lost. ``warmup`` requests go before and are not counted.
    """

    url: str
    endpoint: Endpoint
    model: str
    scenario: str
    seed: str
    concurrency: int | None = None
    request_rate: float | None = None
    max_requests: int | None = None
    max_time: float | None = None
    warmup: int = 0
    timeout: float = 600.0
    tokenizer: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    race: LevelRace | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Job:
        """Read the form that ``dataclasses.asdict`` and JSON give it."""
        limits = tuple(Limit(**limit) for limit in document["limits"])
        race = None if document["race"] is None else LevelRace.of(document["race"])
        return cls(**{**document, "limits": limits, "race": race})


def seed_number(job: Job) -> int:
    """Return the seed as a number, for tools that need one."""
    return zlib.crc32(job.seed.encode())
