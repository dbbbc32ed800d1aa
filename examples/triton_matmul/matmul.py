"""Matrix multiplication in Triton: bfloat16 or float16 in and out, summed in float32.

Each program computes one tile of the product. How large the tiles are, in which order they are
taken, how many warps share one and how far ahead its inputs are loaded changes the speed, but
nothing in the result except rounding.
"""

# ruff: noqa: N803 - constants of a kernel are written in capitals

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch.nn.functional import pad

TYPES = (torch.bfloat16, torch.float16)
#: Sizes that this divides make rows begin where 16 bytes can be loaded at a time, and Triton
#: compiles for them apart. Without that, nothing can be loaded ahead.
ALIGNMENT = 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to compute a product: everything that may be tuned.

    A tile is ``block_m`` rows by ``block_n`` columns of the product. ``num_warps`` warps compute
    it in steps of ``block_k``, with the inputs of ``num_stages`` steps on their way. Tiles are
    taken ``group_m`` below each other, then the next column of as many, so that those that are
    computed at the same time share their inputs in the L2 cache.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int


def matmul(a: torch.Tensor, b: torch.Tensor, config: Config) -> torch.Tensor:
    """Return ``a @ b`` of two matrices of bfloat16, or two of float16."""
    a, b, out = operands(a, b)
    (m, n), k = out.shape, len(b)
    tiles = triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n)
    matmul_kernel[(tiles,)](
        a, b, out, m, n, k, b.shape[1],
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        GROUP_M=config.group_m, EVEN_K=k % config.block_k == 0,
        num_warps=config.num_warps, num_stages=config.num_stages,
        # The default, said aloud: Triton 3.9 warns where it is not, as it is going to change.
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


def operands(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both as the kernel wants them, copied if need be, and room for their product.

    A copy is little work next to the product, and rows of an odd size could only be loaded one
    number at a time.
    """
    if a.dtype not in TYPES or a.dtype != b.dtype or a.shape[1] != b.shape[0]:
        msg = f"cannot multiply {a.dtype} {tuple(a.shape)} by {b.dtype} {tuple(b.shape)}"
        raise ValueError(msg)
    (m, k), n = a.shape, b.shape[1]
    k_padded, n_padded = (triton.cdiv(size, ALIGNMENT) * ALIGNMENT for size in (k, n))
    # Zeros on both sides: what lies in memory by chance may be NaN, and 0 · NaN is NaN.
    return _padded(a, m, k_padded), _padded(b, k_padded, n_padded), a.new_empty((m, n))


def _padded(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return ``matrix`` row by row without gaps, with zeros up to that size."""
    missing = (0, columns - matrix.shape[1], 0, rows - matrix.shape[0])
    return (pad(matrix, missing) if any(missing) else matrix).contiguous()


@triton.jit  # type: ignore[untyped-decorator]
def matmul_kernel(  # noqa: PLR0913, PLR0917 - a kernel takes what it needs one by one
    a_ptr: tl.tensor,
    b_ptr: tl.tensor,
    c_ptr: tl.tensor,
    m: int,
    n: int,
    k: int,
    n_padded: int,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
) -> None:
    """Compute one tile of ``c``, m by n, from ``a``, m by k, and ``b``, k by n_padded."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    program = tl.program_id(0)
    group = program // (GROUP_M * tiles_n)
    within = program % (GROUP_M * tiles_n)
    # Fewer in the last group, where GROUP_M does not divide them.
    group_rows = min(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + within % group_rows
    tile_n = within // group_rows

    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    # In 64 bits, as a large matrix has more than 2³¹ elements.
    a_tile = a_ptr + rows.to(tl.int64)[:, None] * k + steps[None, :]
    b_tile = b_ptr + steps[:, None] * n_padded + columns[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, k, BLOCK_K):
        # Up to n_padded, not n: a mask that ends anywhere would end loads of 16 bytes, too.
        a_mask = (rows < m)[:, None]
        b_mask = (columns < n_padded)[None, :]
        if not EVEN_K:
            a_mask &= (steps < k - first)[None, :]
            b_mask &= (steps < k - first)[:, None]
        a = tl.load(a_tile, mask=a_mask, other=0.0)
        b = tl.load(b_tile, mask=b_mask, other=0.0)
        total = tl.dot(a, b, total)
        a_tile += BLOCK_K
        b_tile += BLOCK_K * n_padded

    c_tile = c_ptr + rows.to(tl.int64)[:, None] * n + columns[None, :]
    c_mask = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(c_tile, total.to(c_ptr.dtype.element_ty), mask=c_mask)
