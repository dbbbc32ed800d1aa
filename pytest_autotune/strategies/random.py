"""Random search without replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_autotune.space.parameters import Point
from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
from pytest_autotune.strategies.unseen import random_unseen


class RandomStrategy(Strategy):
    """Draws valid points uniformly, none twice."""

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return a random unseen point."""
        return random_unseen(self._space, history, np.random.default_rng(seed))
