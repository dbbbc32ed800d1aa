"""Causal attention in NumPy, tile by tile, so that no full matrix of scores ever exists.

The softmax over a query's keys is built up one tile of keys at a time: a running maximum and a
running sum are kept, and what was accumulated under an older maximum is scaled down whenever a
larger one turns up. How large the tiles are, how they lie in memory and how the work is shared
between threads changes the speed and the memory needed, but nothing in the result except
rounding.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
#: A head and the first of some consecutive queries of it.
Block: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to compute attention: everything that may be tuned.

    A tile of scores is ``block_q`` queries by ``block_k`` keys. Its ``layout`` says which of
    the two is the slow axis in memory. ``grain`` is what a thread takes on at a time: a whole
    ``head``, whose keys and values then stay in that core's cache, or one ``block`` of queries,
    which shares the work out more evenly.
    """

    block_q: int
    block_k: int
    layout: Literal["queries_first", "keys_first"] = "queries_first"
    threads: int = 1
    grain: Literal["head", "block"] = "head"


def attention(q: FloatArray, k: FloatArray, v: FloatArray, schedule: Schedule) -> FloatArray:
    """Return ``softmax(q @ k.T / sqrt(dim)) @ v`` per head; query ``i`` sees keys ``0 … i``.

    All arrays have the shape (heads, length, dim).
    """
    heads, length, _ = q.shape
    out = np.empty_like(q)
    units = _units(heads, length, schedule)
    # Made for all threads before the first of them starts, so that the memory needed does not
    # depend on which of them happen to run at the same time.
    size = min(schedule.block_q, length) * min(schedule.block_k, length)
    buffers = [np.empty(size, dtype=np.float32) for _ in range(schedule.threads)]

    def work(buffer: FloatArray) -> None:
        while units:
            try:
                unit = units.popleft()
            except IndexError:  # another thread took the last one
                return
            for head, start in unit:
                # Later keys are invisible to all of these queries, so they are left out. What
                # is visible to some is computed for all: large blocks do more in vain.
                stop = min(start + schedule.block_q, length)
                out[head, start:stop] = _attend(
                    q[head, start:stop], k[head, :stop], v[head, :stop], schedule, buffer
                )

    if schedule.threads == 1:
        work(buffers[0])
    else:
        with ThreadPoolExecutor(schedule.threads) as pool:
            for future in [pool.submit(work, buffer) for buffer in buffers]:
                future.result()
    return out


def _units(heads: int, length: int, schedule: Schedule) -> deque[list[Block]]:
    """Return the work in the portions that the threads take it in."""
    starts = range(0, length, schedule.block_q)
    if schedule.grain == "head":
        return deque([(head, start) for start in starts] for head in range(heads))
    # The last queries see the most keys. With those first, no thread is left alone at the end
    # with a long one.
    return deque([(head, start)] for start in reversed(starts) for head in range(heads))


def _attend(
    q: FloatArray, k: FloatArray, v: FloatArray, schedule: Schedule, buffer: FloatArray
) -> FloatArray:
    """Return the attention of ``q``, the queries that belong to the last of the keys ``k``."""
    rows, keys = len(q), len(k)
    start = keys - rows
    order: Literal["C", "F"] = "C" if schedule.layout == "queries_first" else "F"
    q = q * np.float32(q.shape[1] ** -0.5)
    positions = np.arange(start, keys)[:, np.newaxis]
    top = np.full((rows, 1), -np.inf, dtype=np.float32)
    total = np.zeros((rows, 1), dtype=np.float32)
    result = np.zeros(q.shape, dtype=np.float32, order=order)
    part = np.empty_like(result)
    for first in range(0, keys, schedule.block_k):
        last = min(first + schedule.block_k, keys)
        scores = buffer[: rows * (last - first)].reshape((rows, last - first), order=order)
        np.matmul(q, k[first:last].T, out=scores)
        if last > start + 1:
            hidden = max(first, start + 1)
            future = np.arange(hidden, last) > positions
            np.copyto(scores[:, hidden - first :], -np.inf, where=future)
        # Every query sees the first key, so from the first tile on the maximum is finite.
        highest = np.maximum(top, scores.max(axis=1, keepdims=True))
        fade = np.exp(top - highest)
        np.exp(np.subtract(scores, highest, out=scores), out=scores)
        total = total * fade + scores.sum(axis=1, keepdims=True)
        result *= fade
        result += np.matmul(scores, v[first:last], out=part)
        top = highest
    return result / total
