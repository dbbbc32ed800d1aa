"""A study of two tests: is a configuration right, and how fast is it on this GPU?

Both run for every trial, in this order; a configuration that fails the first is never timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_autotune import assert_matches

pytest.importorskip("torch", reason="needs PyTorch (requirements.txt)")
pytest.importorskip("triton", reason="needs Triton (requirements.txt)")
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's times mean nothing", allow_module_level=True)
# Asks the driver's management library, so that CUDA does not start: which devices this process can
# see is settled then, and the fixture 'gpu' has yet to lease ours. Of MIG instances PyTorch would
# have to ask CUDA.
if (
    not os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-")
    and torch.cuda.device_count() == 0
):
    pytest.skip("needs a CUDA device", allow_module_level=True)
from matmul import Config, matmul

if TYPE_CHECKING:
    from pytest_autotune import Trial

pytestmark = [
    # The path is relative to this file, so that the example works wherever it is copied to.
    pytest.mark.autotune(spec="matmul.yaml"),
    # Where warnings are errors, what PyTorch or Triton is about to drop would fail every trial.
    pytest.mark.filterwarnings("default"),
]

#: Rows of a, columns of b, and what is summed over.
SIZE = tuple(map(int, os.environ.get("MATMUL_SHAPE", "4096x4096x4096").split("x")))
#: No tile divides these; the last is smaller than any. Triton compiles the first, whose sizes are
#: multiples of 16, just as it does SIZE, so that what is timed has been tested.
ODD_SIZES = [(1040, 784, 1152), (1111, 777, 333), (33, 17, 5)]


@pytest.mark.parametrize("size", ODD_SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.usefixtures("gpu")
def test_matches_reference(trial: Trial, size: tuple[int, int, int]) -> None:
    config = Config(**trial.params)
    assert_matches(lambda a, b: matmul(a, b, config), torch.matmul, lambda rng: matrices(rng, size))


def test_latency(trial: Trial, gpu_benchmark: Callable[..., Mapping[str, float]]) -> None:
    m, n, k = SIZE
    a, b = matrices(np.random.default_rng(0), SIZE)
    trial.report(
        gpu_benchmark(
            matmul, a, b, Config(**trial.params),
            flop=2 * m * n * k, bytes_moved=2 * (m * k + k * n + m * n),
        )
    )  # fmt: skip


def matrices(rng: np.random.Generator, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two matrices to multiply."""
    m, n, k = size
    a = torch.from_numpy(rng.standard_normal((m, k), dtype=np.float32))
    b = torch.from_numpy(rng.standard_normal((k, n), dtype=np.float32))
    return a.to("cuda", torch.bfloat16), b.to("cuda", torch.bfloat16)
