"""When requests arrive."""

from __future__ import annotations

import random
from collections.abc import Iterator


def arrivals(rate: float, seed: str) -> Iterator[float]:
    """Yield arrival times in seconds from 0 of a Poisson process of ``rate`` requests/s."""
    rng = random.Random(f"{seed}/arrivals")  # noqa: S311 - no secret depends on it
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        yield at
