"""Is the kernel right? No study, and no GPU: ``TRITON_INTERPRET=1 pytest`` runs it on the CPU."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pytest_autotune import assert_matches

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"
)


@pytest.mark.parametrize("size", [(1, 1, 1), (33, 17, 5), (144, 160, 48), (257, 515, 129)])
@pytest.mark.parametrize("tile", [(16, 16, 16), (64, 32, 32), (32, 128, 64), (256, 128, 32)])
@pytest.mark.parametrize("group_m", [1, 3])
def test_matches_reference(
    size: tuple[int, int, int], tile: tuple[int, int, int], group_m: int
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch (requirements.txt)")
    pytest.importorskip("triton", reason="needs Triton (requirements.txt)")
    import torch
    from matmul import Config, matmul

    block_m, block_n, block_k = tile
    config = Config(
        block_m=block_m, block_n=block_n, block_k=block_k, group_m=group_m,
        num_warps=4, num_stages=3,
    )  # fmt: skip

    def inputs(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = size
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        # The interpreter (of Triton 3.9) multiplies bfloat16 as if its bits were whole numbers.
        return torch.from_numpy(a).half(), torch.from_numpy(b).half()

    assert_matches(lambda a, b: matmul(a, b, config), torch.matmul, inputs, rounds=1)
