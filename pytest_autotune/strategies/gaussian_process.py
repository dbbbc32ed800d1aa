"""Gaussian process regression on a few hundred points, in NumPy alone.

With a Matérn 5/2 kernel and one weight (the inverse squared length scale) per coordinate. The
weights and the noise maximize the posterior density; the scale of the values is integrated in
closed form (Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, chapters 2
and 5). A library would do no more here and costs seconds to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_autotune.space.pool import FloatArray

_ROOT_5: Final = 5**0.5
#: Normal priors of the logarithms: values change over somewhat more than the range of a
#: parameter, and noise is about 3 % of their spread.
_LOG_WEIGHT: Final = (-1.0, 1.5)
_LOG_NOISE: Final = (-7.0, 1.5)
_BOUNDS: Final = (-9.0, 6.0)
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
    """``log_weights`` has shape (coordinates,); ``log_noise`` is relative to the variance."""

    log_weights: FloatArray
    log_noise: float


def fit(x: FloatArray, y: FloatArray, groups: npt.NDArray[np.intp]) -> Hyperparameters:
    """Return the hyperparameters that explain ``y`` best.

    ``x`` has shape (points, columns), ``y``, shape (points,), is standardized; ``groups`` tells
    the coordinate of each column.
    """
    size = int(groups.max()) + 1 if len(groups) else 0
    distances = np.zeros((size, len(x), len(x)))
    for column, group in zip(x.T, groups, strict=True):
        distances[group] += (column[:, None] - column[None, :]) ** 2
    theta = np.array([_LOG_WEIGHT[0]] * size + [_LOG_NOISE[0]])
    step = np.full(size + 1, _FIRST_STEP)
    before = np.zeros(size + 1)
    best, lowest = theta, np.inf
    for _ in range(_STEPS):
        loss, gradient = _loss(theta, distances, y)
        if loss < lowest:
            best, lowest = theta, loss
        same = gradient * before
        step = np.where(same > 0, step * _GROW, np.where(same < 0, step * _SHRINK, step))
        step = step.clip(*_STEP_BOUNDS)
        before = np.where(same < 0, 0.0, gradient)
        theta = (theta - np.sign(before) * step).clip(*_BOUNDS)
    return Hyperparameters(best[:-1], float(best[-1]))


def _loss(theta: FloatArray, distances: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
    """Return the negative logarithm of the posterior density, and its gradient."""
    count = len(y)
    weights, noise = np.exp(theta[:-1]), np.exp(theta[-1])
    kernel, slope = _matern(np.tensordot(weights, distances, 1))
    kernel.flat[:: count + 1] += noise + _JITTER
    try:
        lower = np.linalg.cholesky(kernel)
    except np.linalg.LinAlgError:
        return np.inf, np.zeros_like(theta)
    inverse = np.linalg.inv(kernel)
    alpha = inverse @ y
    variance = (float(y @ alpha) + _VARIANCE_WORTH) / (count + _VARIANCE_WORTH)
    means = np.array([_LOG_WEIGHT[0]] * len(weights) + [_LOG_NOISE[0]])
    widths = np.array([_LOG_WEIGHT[1]] * len(weights) + [_LOG_NOISE[1]])
    off = (theta - means) / widths
    loss = (
        0.5 * (count + _VARIANCE_WORTH) * np.log(variance)
        + np.log(np.diag(lower)).sum()
        + 0.5 * float(off @ off)
    )
    outer = 0.5 * (inverse - np.outer(alpha, alpha) / variance)
    gradient = np.empty_like(theta)
    gradient[:-1] = (distances.reshape(len(weights), -1) @ (outer * slope).ravel()) * weights
    gradient[-1] = np.trace(outer) * noise
    return float(loss), gradient + off / widths


def _matern(squared: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the kernel of squared distances, and its derivative by them."""
    root = _ROOT_5 * np.sqrt(squared)
    decay = np.exp(-root)
    return (1 + root + root * root / 3) * decay, -5 / 6 * (1 + root) * decay


class Kernel:
    """The kernel with known hyperparameters."""

    def __init__(self, hyperparameters: Hyperparameters, groups: npt.NDArray[np.intp]) -> None:
        self.noise = float(np.exp(hyperparameters.log_noise))
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
