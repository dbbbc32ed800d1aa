"""Memory of a GPU that belongs to timing, or to what ran before, and not to what is timed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from pytest_autotune.bench.device import DeviceTimer
from pytest_autotune.bench.graph import GraphTimer
from pytest_autotune.gpu import cuda

_MEMORY: Final = "max_gpu_memory_mib"


def give_back_caches() -> None:
    """Give back the memory that frameworks keep of earlier work and nobody uses."""
    if not cuda.started():
        return
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def own_metrics(metrics: Mapping[str, float], timer: object) -> Mapping[str, float]:
    """Return the metrics of the devices without the buffer that timing flushes caches with."""
    if _MEMORY not in metrics or not isinstance(timer, DeviceTimer | GraphTimer):
        return metrics
    used = metrics[_MEMORY] - timer.flush_bytes / 2**20
    return {**metrics, _MEMORY: max(used, 0.0)}
