"""The default strategy: a surrogate model of all measurements, asked about valid points only.

A few points spread over the space come first. Then Gaussian processes model the finished trials:
the objective, the metric of every hard bound of the SLO, and failures. Each metric is modelled on
the scale on which it is smoothest. The proposal is the candidate with the greatest expected
feasible improvement (Jones et al. 1998; Gardner et al. 2014). Candidates are unseen points from
anywhere and the neighbours of the best ones, so that the search becomes a local one as the model
becomes sure. Running trials count as if they had turned out as expected (Ginsbourger et al. 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Final

import numpy as np
from threadpoolctl import ThreadpoolController

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.pool import FloatArray, IntArray
from pytest_autotune.strategies.acquisition import log_below, log_improvement
from pytest_autotune.strategies.candidates import PoolCandidates, SampledCandidates
from pytest_autotune.strategies.encoding import Encoding
from pytest_autotune.strategies.gaussian_process import (
    Hyperparameters,
    Kernel,
    Posterior,
    fit,
    standardized,
)
from pytest_autotune.strategies.observations import Observations
from pytest_autotune.strategies.protocol import History, Strategy, StrategyContext
from pytest_autotune.strategies.start import Start
from pytest_autotune.strategies.unseen import first_unseen, random_unseen

#: Trials of the start: with fewer, a model is worth less than an even spread.
N_START: Final = 8
#: How many of these must have finished, where many run at once.
_LEAST: Final = 4
#: How many of the best trials have their neighbours among the candidates.
_BEST: Final = 5
#: A model of more trials than this is of the best half of so many and of others at random: an
#: ask costs the same however long the study is.
_MOST: Final = 256
#: Hyperparameters follow from at most so many trials, and anew when there are this much more.
_FITTED: Final = 96
_REFIT: Final = 1.15
#: Noise of the model of failures, as what fails has borders and exceptions.
_FAILURE_NOISE: Final = 0.05
_LEAST_DEVIATION: Final = 0.1
#: At most this share of the variance is between single points, such as neighbours; more of what
#: the model takes for noise is noise of the measurements.
_ROUGHNESS: Final = 1e-3
#: Candidates whose feasibility is computed at once, the most promising first.
_BLOCK: Final = 256


class AutoStrategy(Strategy):
    """Bayesian optimization over valid points; see the module."""

    def __init__(self, context: StrategyContext) -> None:
        self._space = context.space
        self._read = partial(Observations.of, slo=context.slo, objective=context.objective)
        self._initial = context.optimization.n_initial_random or N_START
        self._encoding = Encoding(context.space)
        self._start = Start(context.space, self._encoding, context.seed)
        self._hints = context.hints
        self._seed = context.seed
        self._models = _Models(self._encoding, self._read)

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:
        """Return the most promising unseen point."""
        hint = first_unseen(self._hints, history)
        if hint is not None:
            return hint
        rng = np.random.default_rng(seed)
        observed = self._read([*history.estimates, *history.records])
        enough = len(observed.records) >= min(self._initial, _LEAST)
        if len(history.records) < self._initial or not enough or not self._encoding.size:
            return self._first(history, rng)
        # Threads that wait for each other turn an ask of 25 ms into one of 250 ms next to a server
        # that keeps all cores busy. On one thread, the order of sums is the same everywhere, too.
        with _threads().limit(limits=1, user_api="blas"):
            models = self._models.of(observed)
            if models is None:
                return self._first(history, rng)
            x, point = self._candidates.offer(history, _best(observed), rng)
            return point(models.most_promising(x)) if len(x) else None

    def _first(self, history: History, rng: np.random.Generator) -> Point | None:
        """Return the next point of the start, which is spread evenly."""
        point = first_unseen(self._start.points(len(history.records) + 1), history)
        return random_unseen(self._space, history, rng) if point is None else point

    @cached_property
    def _candidates(self) -> PoolCandidates | SampledCandidates:
        if self._space.pool is not None:
            return PoolCandidates(self._space.pool, self._encoding)
        return SampledCandidates(self._space, self._encoding, self._seed)


@cache
def _threads() -> ThreadpoolController:
    # Only when first asked: it finds no more than what is loaded by then.
    return ThreadpoolController()


def _best(observed: Observations) -> Sequence[Point]:
    ranked = sorted(
        (record for record in observed.records if record.rank[0] < 2),  # noqa: PLR2004
        key=lambda record: (record.rank, record.number),
    )
    return [record.params for record in ranked[:_BEST]]


@dataclass(frozen=True, eq=False)
class _Model:
    """A process of one target over some trials, pending ones included.

    ``x`` are the encoded points; ``zero`` is where the target's zero lies on its scale.
    """

    kernel: Kernel
    x: FloatArray
    posterior: Posterior
    zero: float

    @property
    def roughness(self) -> float:
        """The standard deviation of single points from a smooth function, less the noise."""
        return math.sqrt(self.posterior.variance * min(self.kernel.noise, _ROUGHNESS))

    def of(self, candidates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected values of candidates, and the standard deviations."""
        cross = self.kernel(candidates, self.x)
        return self.posterior.mean(cross), self.posterior.deviation(cross)


@dataclass(frozen=True, eq=False)
class _Surrogate:
    """All models of a study at one moment.

    ``objective`` is None where nothing is known of it, and ``lowest`` where nothing feasible was
    found. ``bounds`` are those of the SLO, ``success`` is positive where trials do not fail.
    """

    objective: _Model | None
    lowest: float | None
    bounds: Sequence[_Model]
    success: _Model | None

    def most_promising(self, candidates: FloatArray) -> int:
        """Return the index of the candidate with the greatest expected feasible improvement."""
        improvement = np.zeros(len(candidates))
        if self.objective is not None and self.lowest is not None:
            mean, deviation = self.objective.of(candidates)
            # Single points also differ from what is smooth. Where the model is sure that nothing
            # is better, that is what is left to find, and more likely so near the best point.
            deviation = np.hypot(deviation, self.objective.roughness)
            improvement = log_improvement((self.lowest - mean) / deviation) + np.log(deviation)
        order = np.argsort(-improvement, kind="stable")
        best, highest = 0, -np.inf
        for begin in range(0, len(order), _BLOCK):
            block = order[begin : begin + _BLOCK]
            if improvement[block[0]] <= highest:
                break  # Probabilities only make it less.
            worth = improvement[block] + self._log_feasible(candidates[block])
            at = int(np.argmax(worth))
            if worth[at] > highest:
                best, highest = int(block[at]), float(worth[at])
        return best

    def _log_feasible(self, candidates: FloatArray) -> FloatArray:
        """Return the logarithm of the probability that a candidate runs and meets the SLO."""
        found = np.zeros(len(candidates))
        for bound in self.bounds:
            mean, deviation = bound.of(candidates)
            found += log_below((bound.zero - mean) / deviation)
        if self.success is not None:
            mean, deviation = self.success.of(candidates)
            found += log_below((mean - self.success.zero) / deviation.clip(min=_LEAST_DEVIATION))
        return found


class _Models:
    """Makes the models of a study; their hyperparameters are found anew only now and then."""

    def __init__(
        self, encoding: Encoding, read: Callable[[Sequence[TrialRecord]], Observations]
    ) -> None:
        self._encoding = encoding
        self._read = read
        self._keys: dict[int, tuple[int, ...]] = {}
        self._fits: dict[int, Hyperparameters] = {}

    def of(self, observed: Observations) -> _Surrogate | None:
        """Return the models of the observations, None where these are too few for any."""
        kept = _subset(observed)
        x = self._encoding.records([observed.records[i] for i in kept])
        pending = self._encoding.records(observed.pending[-_MOST:])
        kernels = [self._kernel(at, observed) for at in range(len(observed.targets))]
        if not any(kernels):
            return None
        models = [
            None if kernel is None else _model(kernel, x, values[kept], pending)
            for kernel, values in zip(kernels, observed.targets, strict=True)
        ]
        objective, bounds = models[0], [model for model in models[1:] if model is not None]
        lowest, feasible = None, observed.feasible[kept][np.isfinite(observed.loss[kept])]
        if not feasible.any() and not bounds:
            # All were given up early, say: by what they had reached.
            feasible = np.ones(len(feasible), dtype=bool)
        if objective is not None and feasible.any():
            # By the model, as the lowest of noisy values is a lucky one.
            expected = objective.posterior.mean(objective.posterior.correlations)
            lowest = float(expected[: len(feasible)][feasible].min())
        success, failed = None, observed.failed[kept]
        if failed.any():
            # Where the objective changes, failures tend to begin, too: the kernel is its.
            kernel = next(kernel for kernel in kernels if kernel is not None)
            labels = np.where(failed, -1.0, 1.0)
            middle = float(labels.mean())
            posterior = Posterior(kernel(x, x), labels - middle, _FAILURE_NOISE)
            success = _Model(kernel, x, posterior, -middle)
        return _Surrogate(objective, lowest, bounds, success)

    def _kernel(self, at: int, observed: Observations) -> Kernel | None:
        """Return the kernel for the target ``at``, None where too little is known of it."""
        known = np.flatnonzero(np.isfinite(observed.targets[at]))
        count = _fitted(len(known))
        if count is None:
            return None
        records = observed.records[: int(known[count - 1]) + 1]
        key = tuple(record.number for record in records)
        if self._keys.get(at) != key:
            # By what was known then, so that a study that is resumed goes the same way.
            self._fits[at] = self._fit(records, self._read(records).targets[at])
            self._keys[at] = key
        return Kernel(self._fits[at], self._encoding.groups)

    def _fit(self, records: Sequence[TrialRecord], values: FloatArray) -> Hyperparameters:
        chosen = np.flatnonzero(np.isfinite(values))
        if len(chosen) > _FITTED:
            order = chosen[np.argsort(values[chosen], kind="stable")]
            chosen = _best_and_others(order, _FITTED, [len(chosen), 0xF17])
        x = self._encoding.records([records[int(i)] for i in chosen])
        return fit(x, values[chosen], self._encoding.groups)


def _fitted(known: int) -> int | None:
    """Return the number of trials that the hyperparameters follow from, None for too few."""
    count = None
    more = 2
    while more <= known:
        count, more = more, int(max(more + 1, more * _REFIT))
    return count


def _model(kernel: Kernel, x: FloatArray, values: FloatArray, pending: FloatArray) -> _Model | None:
    has = np.isfinite(values)
    if not has.any():
        return None
    x = x[has]
    y, middle, spread = standardized(values[has], kernel.power)
    posterior = Posterior(kernel(x, x), y, kernel.noise)
    if len(pending):
        posterior = posterior.after(kernel(pending, x), kernel(pending, pending))
        x = np.vstack([x, pending])
    return _Model(kernel, x, posterior, -middle / spread)


def _subset(observed: Observations) -> IntArray:
    """Return the trials that a model is of."""
    count = len(observed.records)
    if count <= _MOST:
        return np.arange(count)
    order = np.argsort(np.nan_to_num(observed.loss, nan=np.inf), kind="stable")
    return np.sort(_best_and_others(order, _MOST, [count, 0x5B5E7]))


def _best_and_others(order: IntArray, most: int, seed: Sequence[int]) -> IntArray:
    """Return ``most`` of ``order``: half of them its first, the others at random."""
    half = most // 2
    others = np.random.default_rng(seed).choice(order[half:], most - half, replace=False)
    return np.concatenate([order[:half], others])
