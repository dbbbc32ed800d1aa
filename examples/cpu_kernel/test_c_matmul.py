"""A study of two tests: is a configuration right, and how fast is it?

Each trial compiles the kernel once. Its tests run in this order; what fails the first is never
timed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest
from compiled import COMPILER, Config, Kernel, Matrix

from pytest_autotune import assert_matches

if TYPE_CHECKING:
    from pytest_autotune import Trial

if shutil.which(COMPILER[0]) is None:
    pytest.skip(
        f"needs a C compiler, and there is no {COMPILER[0]!r}; install one, or name it by $CC",
        allow_module_level=True,
    )

# The path is relative to this file, so that the example works wherever it is copied to. Where
# there are GPUs, they are left to those who need them.
pytestmark = pytest.mark.autotune(spec="matmul.yaml", gpus=0)

#: Rows of a, columns of b, and what is summed over.
SIZE = (768, 768, 768)
#: Larger than any tile, divided by none; smaller than most; smaller than most blocks.
ODD_SIZES = [(193, 389, 517), (67, 41, 130), (3, 5, 1)]


@pytest.fixture(scope="module")
def kernel(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel, compiled for this trial and used by all of its tests."""
    folder = tmp_path_factory.mktemp("kernel")
    begin = time.perf_counter()
    compiled = Kernel(Config(**trial.params), folder)
    trial.report({"build_time": time.perf_counter() - begin})
    return compiled


@pytest.mark.parametrize("size", ODD_SIZES, ids=lambda size: "x".join(map(str, size)))
def test_matches_reference(trial: Trial, kernel: Kernel, size: tuple[int, int, int]) -> None:
    m, n, _ = size
    error = assert_matches(
        # What the kernel forgets to write stays NaN, and NaN is never right.
        lambda a, b: kernel(a, b, np.full((m, n), np.nan, dtype=np.float32)),
        np.matmul,
        lambda rng: matrices(rng, size),
    )
    trial.report({"error": max(error, trial.metrics.get("error", 0.0))})


def test_latency(
    trial: Trial, kernel: Kernel, gpu_benchmark: Callable[..., Mapping[str, float]]
) -> None:
    m, n, k = SIZE
    a, b = matrices(np.random.default_rng(0), SIZE)
    c = np.empty((m, n), dtype=np.float32)
    trial.report(
        # Without a GPU in use, this takes the time by the processor's clock.
        gpu_benchmark(
            lambda: kernel(a, b, c),
            flop=2 * m * n * k, bytes_moved=4 * (m * k + k * n + m * n), peak="measured",
            # More exact than usual, as the best are close to each other.
            width=0.01, max_time=1.0,
        )
    )  # fmt: skip


def matrices(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[Matrix, Matrix]:
    """Return two matrices to multiply."""
    m, n, k = size
    shapes = ((m, k), (k, n))
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return a, b
