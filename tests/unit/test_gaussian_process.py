"""The surrogate model: gradients, hyperparameters, predictions, and what a candidate promises."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from pytest_autotune.strategies.acquisition import log_below, log_improvement
from pytest_autotune.strategies.gaussian_process import (
    Hyperparameters,
    Kernel,
    Posterior,
    _loss,
    fit,
)
from pytest_autotune.strategies.gaussian_process import standardized as on_scale

Array = npt.NDArray[np.float64]
GROUPS = np.array([0, 1, 1])


def points(count: int, seed: int = 0, columns: int = 3) -> Array:
    return np.random.default_rng(seed).random((count, columns))


def standardized(y: Array) -> Array:
    found: Array = (y - y.mean()) / y.std()
    return found


def test_the_gradient_is_that_of_the_loss() -> None:
    x, rng = points(12), np.random.default_rng(1)
    distances = np.stack(
        [sum((x[:, None, c] - x[None, :, c]) ** 2 for c in columns) for columns in ([0], [1, 2])]
    )
    y, theta = standardized(rng.random(12)), np.array([0.3, -0.8, -3.0, -0.6])
    _, gradient = _loss(theta, distances, y)
    for at in range(4):
        step = np.zeros(4)
        step[at] = 1e-5
        up, down = (_loss(theta + sign * step, distances, y)[0] for sign in (1, -1))
        assert gradient[at] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


def test_coordinates_that_matter_get_the_weight() -> None:
    x = points(40)
    found = fit(x, standardized(np.sin(9 * x[:, 0])), GROUPS)
    assert found.log_weights[0] > found.log_weights[1] + 3


def test_noise_is_found_where_there_is_some() -> None:
    x, rng = points(60), np.random.default_rng(2)
    smooth = np.sin(3 * x[:, 0])
    clean = fit(x, standardized(smooth), GROUPS)
    noisy = fit(x, standardized(smooth + rng.normal(0, 0.3, 60)), GROUPS)
    assert noisy.log_noise > clean.log_noise + 2


@pytest.mark.parametrize(("power", "least", "most"), [(1.0, 0.3, 1.0), (-1.0, -2.0, -0.3)])
def test_the_scale_is_the_one_on_which_the_values_are_smooth(
    power: float, least: float, most: float
) -> None:
    x = points(60)
    smooth = 4 * ((x - 0.4) ** 2).sum(axis=1)
    # So that a plain quadratic is what is seen on the scale of ``power``.
    logs = np.log1p(power * smooth * (1 if power > 0 else 0.2)) / power
    assert least <= fit(x, logs, GROUPS).power <= most


def test_a_value_that_is_far_off_does_not_hide_the_others() -> None:
    x = points(40)
    logs = np.sin(5 * x[:, 0])
    logs[7] = math.log(1e4)
    found = fit(x, logs - logs.min(), GROUPS)
    y, _, _ = on_scale(logs - logs.min(), found.power)
    assert found.power < -0.3
    assert np.delete(y, 7).std() > 0.5


@pytest.mark.parametrize("y", [np.zeros(6), np.array([0.0] * 5 + [1.0])])
def test_fitting_survives_values_that_say_little(y: Array) -> None:
    found = fit(points(6), y, GROUPS)
    assert np.isfinite(found.log_weights).all()
    assert math.isfinite(found.log_noise)


def test_the_kernel_is_matern_five_halves_with_a_weight_per_coordinate() -> None:
    kernel = Kernel(Hyperparameters(np.log([4.0, 0.25]), -5.0), GROUPS)
    a, b = points(3, 1), points(4, 2)
    weights = np.array([4.0, 0.25, 0.25])
    r = np.sqrt((weights * (a[:, None] - b[None]) ** 2).sum(axis=2)) * math.sqrt(5)
    assert kernel(a, b) == pytest.approx((1 + r + r * r / 3) * np.exp(-r))
    assert kernel.noise == pytest.approx(math.exp(-5))


def test_a_posterior_passes_through_what_was_seen_and_is_unsure_elsewhere() -> None:
    kernel = Kernel(Hyperparameters(np.zeros(2), -12.0), GROUPS)
    x = points(15)
    y = standardized(x[:, 0] + x[:, 1])
    model = Posterior(kernel(x, x), y, kernel.noise)
    assert model.mean(kernel(x, x)) == pytest.approx(y, abs=1e-3)
    assert model.deviation(kernel(x, x)).max() < 0.02
    far = np.full((1, 3), 30.0)
    assert model.mean(kernel(far, x)) == pytest.approx(0.0, abs=1e-3)
    assert model.deviation(kernel(far, x))[0] == pytest.approx(math.sqrt(model.variance), rel=1e-3)


def test_a_pending_point_changes_no_mean_and_leaves_nothing_to_learn_there() -> None:
    kernel = Kernel(Hyperparameters(np.zeros(2), -9.0), GROUPS)
    x, pending, elsewhere = points(8), points(2, 5), points(6, 6)
    model = Posterior(kernel(x, x), standardized(x[:, 0]), kernel.noise)
    after = model.after(kernel(pending, x), kernel(pending, pending))
    joint = np.vstack([x, pending])
    assert after.mean(kernel(elsewhere, joint)) == pytest.approx(
        model.mean(kernel(elsewhere, x)), abs=0.01
    )
    before = model.deviation(kernel(pending, x))
    assert (after.deviation(kernel(pending, joint)) < 0.1 * before).all()


def test_points_that_coincide_are_no_failure() -> None:
    x = np.zeros((5, 3))
    kernel = Kernel(Hyperparameters(np.zeros(2), -40.0), GROUPS)
    model = Posterior(kernel(x, x), standardized(np.arange(5.0)), 0.0)
    assert np.isfinite(model.mean(kernel(x, x))).all()


@pytest.mark.parametrize("z", [-35.0, -12.0, -5.0, -1.0, 0.0, 0.7, 4.0, 9.0])
def test_the_normal_distribution_is_exact_far_out_too(z: float) -> None:
    expected = math.log(math.erfc(-z / math.sqrt(2)) / 2)
    assert log_below(np.array([z]))[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("z", [-4.9, -2.0, 0.0, 1.5, 6.0])
def test_expected_improvement_is_the_integral_that_it_stands_for(z: float) -> None:
    gain, width = np.linspace(0, z + 12, 400_001, retstep=True)
    density = np.exp(-0.5 * (gain - z) ** 2) / math.sqrt(2 * math.pi)
    integral = float((gain * density).sum() * width)
    assert log_improvement(np.array([z]))[0] == pytest.approx(math.log(integral), rel=1e-4)


def test_expected_improvement_falls_steadily_however_far_out() -> None:
    found = log_improvement(np.linspace(-60, 5, 2_001))
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
