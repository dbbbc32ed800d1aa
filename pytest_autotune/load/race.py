"""The race of a level: its requests may show, at a stated error rate, that its trial loses.

A quantile or a mean is tested by betting against it. Let values that are never negative have a
mean of at most 1. A player stakes the share ``s`` of the money on each value being more than 1. The
value multiplies the money by ``1 + s · (value - 1)``, so the expected gain is nothing. The chance
that the money ever grows by ``1 / alpha`` is at most ``alpha``, however often one looks (Ville,
1939). For means without an upper bound see Waudby-Smith and Ramdas, *Estimating means of
bounded random variables by betting*, JRSS B 86, 2024. The values may have any distribution.

For a mean the values are shares of the limit. The quantile at q exceeds the limit where more than
1 - q of the values do. There, a value above the limit counts ``1 / (1 - q)``, and 0 otherwise.

The test needs bets that do not depend on those before. Requests that queue together do: one that
waited long is followed by others. So bets are on the means of successive blocks, each of as many
requests as run at the same time. They count for less where those means still resemble each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_autotune.load.limits import Limit, Tally
from pytest_autotune.load.statistics import RequestRecord, percentile_of

#: Error rate of giving a trial up, over all looks and levels of it.
ALPHA: Final = 0.01
#: Shares that are staked, each by an equal part of the money: large ones are for what is clearly
#: too slow, small ones for rare and long outliers.
_STAKES: Final = (0.02, 0.06, 0.2, 0.5, 0.9)
#: Fewer requests or blocks decide nothing, as they do not show whether they are alike.
MIN_REQUESTS: Final = 30
MIN_BLOCKS: Final = 4
#: Blocks have no fewer requests than this, and as many where nobody knows how many run.
MIN_BLOCK: Final = 4
OPEN_BLOCK: Final = 16
#: Nor sooner than this, as a disturbance by something else on the machine passes (seconds).
MIN_SECONDS: Final = 0.5
#: Counts of tokens that differ by no more than this are alike.
_TOKENS_ALIKE: Final = 0.02
_MAX_CORRELATION: Final = 0.95
#: Blocks are taken to correlate by so many standard errors more than they are seen to.
_CAUTION: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRace:
    """The limit of a level's statistic beyond which its trial has lost.

    ``metric`` is ``ttft``, ``tpot`` or ``e2e_latency`` in seconds. If ``per`` names counts of a
    request (``output_tokens``), it is in seconds for each of them. ``limit`` is tested on the
    requests so far, with an error of at most ``alpha``. ``certain`` is the limit beyond which the
    trial loses whatever follows, infinite if there is none. ``limit`` leaves out the first
    ``skip`` requests, as a closed loop begins with all of them at once. ``block`` neighbours count
    as one.
    """

    metric: str
    statistic: str
    limit: float
    certain: float = math.inf
    alpha: float = ALPHA
    skip: int = 0
    block: int = MIN_BLOCK
    per: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: dict[str, Any]) -> LevelRace:
        """Read what ``dataclasses.asdict`` and JSON made of it."""
        return cls(**{**document, "per": tuple(document["per"])})

    def value(self, request: RequestRecord) -> float | None:
        """Return the value of a request, None where it has none."""
        if not request.ok:
            return None
        found: float | None = getattr(request, self.metric)
        if found is None or not self.per:
            return found
        count = self.work(request)
        return found / count if count else None

    def work(self, request: RequestRecord) -> int:
        """Return the amount of work in a request: its tokens."""
        return sum(getattr(request, name) for name in self.per)

    def share(self, value: float) -> float:
        """Return ``value`` scaled so that its mean is at most 1 while the limit is kept."""
        if self.statistic == "mean":
            return value / self.limit
        quantile = percentile_of(self.statistic)
        assert quantile is not None, "of other statistics nothing but the certain limit is known"
        return 1 / (1 - quantile) if value > self.limit else 0.0

    @property
    def bets(self) -> bool:
        """Return whether the statistic is one that can be tested."""
        return self.statistic == "mean" or percentile_of(self.statistic) is not None


@dataclass(slots=True)
class Bets:
    """Money that is bet on values having a mean of more than 1; it begins at 1.

    Bets are on the means of ``block`` values; ``count`` of them were settled. Only sums are kept,
    so that a value costs the same however many came before.
    """

    block: int = 1
    count: int = 0
    _open: list[float] = field(default_factory=list)
    _logs: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))
    _sum: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0
    _first: float = 0.0
    _last: float = 0.0

    def add(self, value: float) -> None:
        """Take in a value, which is not negative, and settle the bets once a block is full."""
        self._open.append(value)
        if len(self._open) == self.block:
            self._settle(math.fsum(self._open) / self.block)
            self._open.clear()

    def _settle(self, value: float) -> None:
        for at, stake in enumerate(_STAKES):
            self._logs[at] += math.log1p(stake * (value - 1))
        if self.count:
            self._products += self._last * value
        else:
            self._first = value
        self._last = value
        self.count += 1
        self._sum += value
        self._squares += value * value

    @property
    def log_money(self) -> float:
        """The logarithm of all the money there is."""
        most = max(self._logs)
        total = math.fsum(math.exp(log - most) for log in self._logs)
        return most + math.log(total / len(self._logs))

    @property
    def factor(self) -> float:
        """The number of means that count as one independent mean.

        It is ``(1 + r) / (1 - r)``: the variance of a mean grows by that where neighbours
        correlate by r, in a process of first order (Bartlett, 1946). r is taken a little larger
        than measured, in units of its standard error of 1/√n.
        """
        n = self.count
        mean = self._sum / n
        variance = self._squares / n - mean * mean
        around = (
            self._products - mean * (2 * self._sum - self._first - self._last) + (n - 1) * mean**2
        )
        # Sums of floats are not exact: values that do not vary do not correlate.
        r = around / n / variance if variance > 1e-9 * mean * mean else 0.0
        r = min(max(r, 0.0) + _CAUTION / math.sqrt(n), _MAX_CORRELATION)
        return (1 + r) / (1 - r)

    def won(self, alpha: float) -> bool:
        """Return whether the mean is more than 1, with an error of at most ``alpha``."""
        if self.count < max(MIN_BLOCKS, math.ceil(MIN_REQUESTS / self.block)):
            return False
        money = self.log_money
        return money > 0 and money / self.factor >= -math.log(alpha)


class Contest:
    """A race, while its level runs.

    A race about time per token is off where requests turn out to get unequally many tokens, as it
    then says nothing about the throughput.
    """

    def __init__(self, race: LevelRace) -> None:
        self.race = race
        self._least, self._most = math.inf, 0.0
        limit = Limit(label="race", metric=race.metric, statistic=race.statistic, most=race.certain)
        self._tally = Tally(limit)
        self._bets = Bets(block=race.block)

    def add(self, request: RequestRecord, number: int) -> None:
        """Count a request that has ended; ``number`` is its place in the level, from 1."""
        value = self.race.value(request)
        if value is None:
            return
        if self.race.per:
            count = self.race.work(request)
            self._least, self._most = min(self._least, count), max(self._most, count)
        self._tally.add(value)
        if number > self.race.skip and self.race.bets:
            self._bets.add(self.race.share(value))

    def lost(self, at_most: int, seconds: float, running: Iterable[float] = ()) -> bool:
        """Return whether it is lost, ``seconds`` after the level began.

        ``at_most`` is the largest number of requests in the end. ``running`` are lower bounds of
        the times of those that are running.
        """
        if self._most > (1 + _TOKENS_ALIKE) * self._least:
            return False
        tally = self._tally if self.race.per else self._tally.with_more(running)
        if math.isfinite(self.race.certain) and tally.limit.lost(tally, at_most):
            return True
        return seconds >= MIN_SECONDS and self._bets.won(self.race.alpha)
