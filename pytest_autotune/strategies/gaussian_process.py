"""Gaussian process regression on a few hundred points, in NumPy alone.

With a Matérn 5/2 kernel and one weight (the inverse squared length scale) per coordinate. The
weights, the noise and the power of the scale maximize the posterior density; the variance of the
values is integrated in closed form (Rasmussen and Williams, *Gaussian Processes for Machine
Learning*, 2006, chapters 2 and 5; Snelson, Rasmussen and Ghahramani, *Warped Gaussian Processes*,
2003, for the scale). A library would do no more here and costs seconds to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_autotune.space.pool import FloatArray
from pytest_autotune.strategies.scale import log_slopes, scaled

_ROOT_5: Final = 5**0.5
#: Normal priors of the logarithms: values change over somewhat more than the range of a
#: parameter, and noise is about 3 % of their spread.
_LOG_WEIGHT: Final = (-1.0, 1.5)
_LOG_NOISE: Final = (-7.0, 1.5)
_BOUNDS: Final = (-9.0, 6.0)
#: The prior of the power of the scale, and its bounds: trials close to the best are told apart
#: rather than bad ones, unless all of them follow one smooth curve.
_POWER: Final = (-1.0, 0.75)
_POWER_BOUNDS: Final = (-2.0, 1.0)
#: The step by which the loss is differentiated along the power.
_POWER_STEP: Final = 1e-3
#: Values that differ by less are equal.
_LEAST_SPREAD: Final = 1e-9
#: How many observations it is worth that values, which are standardized, have a variance of 1.
_VARIANCE_WORTH: Final = 2.0
#: Steps of the optimizer (Rprop: signs of the gradient, and a step size for each).
_STEPS: Final = 30
_FIRST_STEP: Final = 0.3
_STEP_BOUNDS: Final = (1e-3, 1.0)
_GROW: Final = 1.3
_SHRINK: Final = 0.5
_JITTER: Final = 1e-8


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """``log_weights`` has shape (coordinates,); ``log_noise`` is relative to the variance.

    ``power`` is that of the scale on which the values are modelled.
    """

    log_weights: FloatArray
    log_noise: float
    power: float = 0.0


def fit(x: FloatArray, logs: FloatArray, groups: npt.NDArray[np.intp]) -> Hyperparameters:
    """Return the hyperparameters that explain ``logs`` best.

    ``x`` has shape (points, columns); ``logs``, shape (points,), are logarithms of ratios;
    ``groups`` tells the coordinate of each column.
    """
    size = int(groups.max()) + 1 if len(groups) else 0
    distances = np.zeros((size, len(x), len(x)))
    for column, group in zip(x.T, groups, strict=True):
        distances[group] += (column[:, None] - column[None, :]) ** 2
    theta, _ = _priors(size)
    lower = np.array([_BOUNDS[0]] * (size + 1) + [_POWER_BOUNDS[0]])
    upper = np.array([_BOUNDS[1]] * (size + 1) + [_POWER_BOUNDS[1]])
    step = np.full(size + 2, _FIRST_STEP)
    before = np.zeros(size + 2)
    best, lowest = theta, np.inf
    for _ in range(_STEPS):
        loss, gradient = _loss(theta, distances, logs)
        if loss < lowest:
            best, lowest = theta, loss
        same = gradient * before
        step = np.where(same > 0, step * _GROW, np.where(same < 0, step * _SHRINK, step))
        step = step.clip(*_STEP_BOUNDS)
        before = np.where(same < 0, 0.0, gradient)
        theta = (theta - np.sign(before) * step).clip(lower, upper)
    return Hyperparameters(best[:-2], float(best[-2]), float(best[-1]))


def _priors(size: int) -> tuple[FloatArray, FloatArray]:
    """Return means and deviations of the priors of all hyperparameters, in the order of fit()."""
    means, deviations = zip(*[_LOG_WEIGHT] * size, _LOG_NOISE, _POWER, strict=True)
    return np.array(means), np.array(deviations)


def standardized(logs: FloatArray, power: float) -> tuple[FloatArray, float, float]:
    """Return the values on the scale of ``power``, standardized, and their mean and deviation."""
    values = scaled(logs, power)
    middle, spread = float(values.mean()), float(values.std())
    spread = spread if spread > _LEAST_SPREAD else 1.0
    return (values - middle) / spread, middle, spread


def _loss(theta: FloatArray, distances: FloatArray, logs: FloatArray) -> tuple[float, FloatArray]:
    """Return the negative logarithm of the posterior density, and its gradient."""
    count = len(logs)
    weights, noise, power = np.exp(theta[:-2]), np.exp(theta[-2]), float(theta[-1])
    kernel, slope = _matern(np.tensordot(weights, distances, 1))
    kernel.flat[:: count + 1] += noise + _JITTER
    try:
        lower = np.linalg.cholesky(kernel)
    except np.linalg.LinAlgError:
        return np.inf, np.zeros_like(theta)
    inverse = np.asarray(np.linalg.inv(kernel), dtype=np.float64)
    y, _, _ = standardized(logs, power)
    alpha = inverse @ y
    variance = (float(y @ alpha) + _VARIANCE_WORTH) / (count + _VARIANCE_WORTH)
    means, deviations = _priors(len(weights))
    off = (theta - means) / deviations
    loss = (
        _misfit(inverse, logs, power) + float(np.log(np.diag(lower)).sum()) + 0.5 * float(off @ off)
    )
    outer = 0.5 * (inverse - np.outer(alpha, alpha) / variance)
    gradient = np.empty_like(theta)
    gradient[:-2] = (distances.reshape(len(weights), -1) @ (outer * slope).ravel()) * weights
    gradient[-2] = np.trace(outer) * noise
    up, down = (_misfit(inverse, logs, power + step) for step in (_POWER_STEP, -_POWER_STEP))
    gradient[-1] = (up - down) / (2 * _POWER_STEP)
    return loss, gradient + off / deviations


def _misfit(inverse: FloatArray, logs: FloatArray, power: float) -> float:
    """Return the part of the loss that depends on the values, given the inverse of the kernel."""
    y, _, spread = standardized(logs, power)
    worth = len(logs) + _VARIANCE_WORTH
    explained = 0.5 * worth * np.log((float(y @ inverse @ y) + _VARIANCE_WORTH) / worth)
    # The density is one of the logarithms, whatever the scale.
    stretched = log_slopes(logs, power).sum() - len(logs) * np.log(spread)
    return float(explained - stretched)


def _matern(squared: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the kernel of squared distances, and its derivative by them."""
    root = _ROOT_5 * np.sqrt(squared)
    decay = np.exp(-root)
    return (1 + root + root * root / 3) * decay, -5 / 6 * (1 + root) * decay


class Kernel:
    """The kernel with known hyperparameters; noise and scale are those of the values."""

    def __init__(self, hyperparameters: Hyperparameters, groups: npt.NDArray[np.intp]) -> None:
        self.noise = float(np.exp(hyperparameters.log_noise))
        self.power = hyperparameters.power
        self._roots = np.exp(0.5 * hyperparameters.log_weights)[groups]

    def __call__(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return the correlations, shape (len(a), len(b))."""
        # Squared distances as one product of matrices; then in place, as allocating is what costs.
        a, b = a * self._roots, b * self._roots
        left = np.hstack([-2 * a, (a * a).sum(axis=1)[:, None], np.ones((len(a), 1))])
        right = np.hstack([b, np.ones((len(b), 1)), (b * b).sum(axis=1)[:, None]])
        found: FloatArray = left @ right.T
        np.maximum(found, 0.0, out=found)
        found *= 5
        decay = np.sqrt(found)
        found /= 3
        found += decay
        found += 1
        np.negative(decay, out=decay)
        np.exp(decay, out=decay)
        found *= decay
        return found


@dataclass(frozen=True, eq=False)
class Posterior:
    """A Gaussian process that has seen points whose correlations are ``correlations``.

    ``correlations`` has shape (points, points), without noise; ``y``, shape (points,), is
    standardized; ``noise`` is relative to the variance of the values.
    """

    correlations: FloatArray
    y: FloatArray
    noise: float

    @cached_property
    def _root(self) -> FloatArray:
        """Inverse of the lower Cholesky factor."""
        jitter = self.noise + _JITTER
        while True:
            kernel = self.correlations.copy()
            kernel.flat[:: len(kernel) + 1] += jitter
            try:
                lower = np.linalg.cholesky(kernel)
            except np.linalg.LinAlgError:
                jitter *= 10
                continue
            found: FloatArray = np.linalg.inv(lower)
            return found

    @cached_property
    def _alpha(self) -> FloatArray:
        return self._root.T @ (self._root @ self.y)

    @cached_property
    def variance(self) -> float:
        """Variance of the values, of which the posterior's is a share."""
        explained = float(self.y @ self._alpha)
        return (explained + _VARIANCE_WORTH) / (len(self.y) + _VARIANCE_WORTH)

    def mean(self, cross: FloatArray) -> FloatArray:
        """Return the expected values, given correlations of shape (candidates, points)."""
        return cross @ self._alpha

    def deviation(self, cross: FloatArray) -> FloatArray:
        """Return the standard deviations of the values themselves, without noise."""
        explained = cross @ self._root.T
        left = 1 - np.einsum("ij,ij->i", explained, explained)
        found: FloatArray = np.sqrt(left.clip(min=1e-12) * self.variance)
        return found

    def after(self, cross: FloatArray, correlations: FloatArray) -> Posterior:
        """Return the process once further points were seen to be what is expected of them.

        That is how a pending trial counts: nothing new is known of the values, but no more is
        to be learnt there. ``cross`` has shape (further, points), ``correlations`` is theirs.
        """
        joint = np.block([[self.correlations, cross.T], [cross, correlations]])
        return Posterior(joint, np.concatenate([self.y, self.mean(cross)]), self.noise)
