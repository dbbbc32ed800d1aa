"""The reasons to end a level early: a lost limit or race, saturation, a dead server."""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import Final

from pytest_autotune.load.level_state import LevelState
from pytest_autotune.load.limits import Tally
from pytest_autotune.load.race import Contest
from pytest_autotune.load.statistics import RequestRecord

#: A level is given up after this many failures in a row (or two per client) over this time.
_HOPELESS_FAILURES: Final = 20
_HOPELESS_SECONDS: Final = 2.0
#: A level is given up after two failures per client over this time if none got a connection.
_UNREACHABLE_SECONDS: Final = 15.0
#: A request that is not refused within this time may still succeed.
_REFUSED_SECONDS: Final = 1.0
#: Open loop: when the backlog is looked at, and what makes it a hopeless one.
_SATURATION_SECONDS: Final = 5.0
_SATURATION_ARRIVALS: Final = 50
_SATURATION_BACKLOG: Final = 32
_SATURATION_SHARE: Final = 0.9
_SATURATION_RISE: Final = 1.1
#: Not before so many times the fastest request's latency.
_SATURATION_SERVICES: Final = 4


class EarlyEnd:
    """Finds the reason to end a level early, if there is one.

    ``race_lost`` is true once that reason was the trial's race.
    """

    def __init__(self, state: LevelState) -> None:
        self._state = state
        self._tallies = [Tally(limit) for limit in state.job.limits]
        self._contest = None if state.job.race is None else Contest(state.job.race)
        self._backlogs: list[tuple[float, int, int]] = []
        self.race_lost = False

    def reason(self) -> str:
        """Return the reason to end the level now, empty if there is none."""
        return self._lost() or self._saturated() or self._hopeless() or self._beaten()

    def count(self, request: RequestRecord, number: int) -> None:
        """Count a request that has ended; ``number`` is its place in the level, from 1."""
        for tally in self._tallies:
            metric = tally.limit.metric
            if metric == "error_rate":
                value: float | None = float(not request.ok)
            else:
                value = getattr(request, metric) if request.ok else None
            if value is not None:
                tally.add(value)
        if self._contest is not None:
            self._contest.add(request, number)

    def _lost(self) -> str:
        now = perf_counter()
        at_most = self._state.at_most(now)
        for tally in self._tallies:
            known = tally.with_more(self._state.so_far(tally.limit.metric, now))
            if tally.limit.lost(known, at_most):
                return f"{tally.limit.label} is lost whatever follows, after {known.count} requests"
        return ""

    def _beaten(self) -> str:
        """Return that the race is lost, the reason that says least of the server."""
        if self._contest is None:
            return ""
        state, now = self._state, perf_counter()
        running = state.so_far(self._contest.race.metric, now)
        self.race_lost = self._contest.lost(state.at_most(now), now - state.began, running)
        return "the trial cannot win" if self.race_lost else ""

    def _hopeless(self) -> str:
        """Return that the server has failed every request for a while."""
        state = self._state
        now = perf_counter()
        enough = 2 * (state.job.concurrency or 1)
        if now - state.last_success < _UNREACHABLE_SECONDS or any(r.sent for r in state.finished):
            enough = max(_HOPELESS_FAILURES, enough)
        if state.failures < enough or now - state.last_success < _HOPELESS_SECONDS:
            return ""
        # Its own time-out will tell whether it succeeds.
        if any(e.sent and (e.started or now - e.sent > _REFUSED_SECONDS) for e in state.running):
            return ""
        last = next(r for r in reversed(state.finished) if r.error)
        return f"{state.failures} requests in a row failed ({last.error}: {last.detail})"

    def _saturated(self) -> str:
        """Return that an open loop's backlog grows without end.

        In the last third of the time so far, clearly fewer requests were answered than came, and
        no more per second than in the third before. The backlog is large and has doubled since
        half-time. While a level begins, the backlog grows as well, up to what a server holds that
        keeps up; but then so does the rate of answers.
        """
        state = self._state
        if state.job.request_rate is None:
            return ""
        now = perf_counter() - state.began
        backlog = len(state.running)
        self._backlogs.append((now, state.issued, backlog))
        if (
            now < max(_SATURATION_SECONDS, _SATURATION_SERVICES * state.fastest)
            or state.issued < _SATURATION_ARRIVALS
            or backlog < _SATURATION_BACKLOG
        ):
            return ""
        one, half, two = (self._at(share * now) for share in (1 / 3, 1 / 2, 2 / 3))
        came = state.issued - two[1]
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
