"""What a proposal costs, however many trials there are to learn from."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from pytest_autotune.scoring.judgement import Judgement, Outcome
from pytest_autotune.scoring.records import Owner, TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.strategies import History, make_strategy
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import Settings

#: Numbers of trials, and proposals at each; every one is followed by a trial more.
TRIALS: Final = (10, 50, 100, 200, 500, 1000, 2000, 5000)
ASKS: Final = 12

_TILES: Final[Mapping[str, Sequence[int]]] = {
    "MWG": [16, 32, 64, 128],
    "NWG": [16, 32, 64, 128],
    "KWG": [16, 32],
    "MDIMC": [8, 16, 32],
    "NDIMC": [8, 16, 32],
    "VWM": [1, 2, 4, 8],
    "VWN": [1, 2, 4, 8],
    "SA": [0, 1],
    "SB": [0, 1],
}
_FITS: Final = ["MWG % (MDIMC * VWM) == 0", "NWG % (NDIMC * VWN) == 0"]
SPACES: Final[Mapping[str, Mapping[str, Any]]] = {
    "listed": {"parameters": _TILES, "constraints": _FITS},
    # The same and two ranges: some 10^11 combinations, which are sampled.
    "sampled": {
        "parameters": {
            **_TILES,
            "pages": {"type": "integer", "low": 1, "high": 1_000_000},
            "streams": {"type": "integer", "low": 1, "high": 4096, "log": True},
        },
        "constraints": _FITS,
    },
}


def asks(strategy: str, space: str, trials: Sequence[int] = TRIALS) -> list[tuple[float, float]]:
    """Return for each number of trials what a proposal took, in seconds: median and most."""
    spec = load_inline(space, dict(SPACES[space]), "search_asks.py")
    context = Plan.make(space, spec, Settings(trials=max(trials) + ASKS)).context
    asked = make_strategy(strategy, context)
    at_random = make_strategy("random", context)
    rng = np.random.default_rng(0)
    records: list[TrialRecord] = []
    found = []
    for count in trials:
        while len(records) < count:
            point = at_random.propose(History(records=records[-1:]), [len(records)])
            records.append(_trial(len(records), point, rng))
        spent = []
        for _ in range(ASKS):
            history = History(records=list(records))
            began = time.thread_time()
            point = asked.propose(history, [0, len(records)])
            spent.append(time.thread_time() - began)
            records.append(_trial(len(records), point, rng))
        found.append((statistics.median(spent), max(spent)))
    return found


def _trial(number: int, point: Point | None, rng: np.random.Generator) -> TrialRecord:
    """Return a finished trial: a tenth fails, the others have a time with some noise."""
    assert point is not None, "the spaces are large enough"
    off = abs(math.log2(point["MWG"] / 64)) + abs(math.log2(point["VWN"] / 4)) + point["SA"]
    score = math.exp(0.3 * off + rng.normal(0, 0.02))
    fails = rng.random() < 0.1
    return TrialRecord(
        number=number,
        params=point,
        owner=Owner(process="", session="", slot=""),
        judgement=Judgement(
            outcome=Outcome.FAILED if fails else Outcome.FEASIBLE,
            score=None if fails else score,
            value=None if fails else score,
        ),
    )


def print_asks(strategies: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Measure and print; return the figures."""
    print("\nA proposal after so many trials, processor time in ms: median, and the longest of 12")
    print(f"{'':24s}" + "".join(f"{count:>13d}" for count in TRIALS))
    all_found = {}
    for strategy in strategies:
        for space in SPACES:
            found = asks(strategy, space)
            all_found[f"{strategy}, {space}"] = found
            cells = "".join(f"{1e3 * mid:7.1f}{1e3 * most:6.0f}" for mid, most in found)
            print(f"{strategy + ', ' + space:24s}{cells}", flush=True)
    return all_found


if __name__ == "__main__":
    print_asks(["auto", "bayesian", "random"])
