"""A study of two tests: is a configuration right, and how fast is it?

Both run for every trial, in this order; a configuration that fails the first is never timed.
"""

from __future__ import annotations

import secrets
import time
import tracemalloc
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from blocked_attention import Schedule, attention

if TYPE_CHECKING:
    from pytest_autotune import Trial

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]

# The path is relative to this file, so that the example works wherever it is copied to.
pytestmark = pytest.mark.autotune(spec="attention.yaml")

HEADS, LENGTH, DIM = 4, 2048, 64
#: Ten times what rounding to float32 comes to with these inputs, and far less than any mistake.
TOLERANCE = 5e-4
#: A timing goes on until it has both.
MIN_REPEATS, MIN_SECONDS = 7, 0.4


def test_matches_reference(trial: Trial) -> None:
    # New inputs every time, so that nothing can be right by having been seen before.
    seed = secrets.randbits(32)
    # No tile size divides this length, so that the last tiles are cut off.
    q, k, v = inputs(np.random.default_rng(seed), heads=2, length=1237)
    result = attention(q, k, v, Schedule(**trial.params))
    error = np.abs(result - reference(q, k, v)).max()
    # A NaN anywhere makes the error NaN, and NaN is not less than anything.
    assert error < TOLERANCE, f"off by {error} with seed {seed}"


def test_latency(trial: Trial) -> None:
    schedule = Schedule(**trial.params)
    q, k, v = inputs(np.random.default_rng(0), heads=HEADS, length=LENGTH)

    # The first call warms up caches and threads. It is not timed, so it can be traced.
    tracemalloc.start()
    result = attention(q, k, v, schedule)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    times: list[float] = []
    while len(times) < MIN_REPEATS or sum(times) < MIN_SECONDS:
        begin = time.perf_counter()
        attention(q, k, v, schedule)
        times.append(time.perf_counter() - begin)

    p50, p90 = np.quantile(times, [0.5, 0.9])
    trial.report(
        {
            # Without a mean, the median is what "minimize_latency" goes by: it does not move
            # when something else on the machine disturbs a few of the repeats.
            "latency": {"min": min(times), "p50": p50, "p90": p90},
            "workspace_mib": (peak - result.nbytes) / 2**20,
        }
    )


def inputs(
    rng: np.random.Generator, *, heads: int, length: int
) -> tuple[Float32, Float32, Float32]:
    """Return queries, keys and values."""
    q, k, v = rng.standard_normal((3, heads, length, DIM), dtype=np.float32)
    # Large enough for exp() to overflow, were the maximum not subtracted first.
    return 24 * q, k, v


def reference(q: Float32, k: Float32, v: Float32) -> Float64:
    """Return causal attention the plain way, in double precision."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(DIM)
    length = scores.shape[-1]
    scores[:, np.triu(np.ones((length, length), dtype=np.bool_), k=1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    averages: Float64 = weights @ v / weights.sum(axis=-1, keepdims=True)
    return averages
