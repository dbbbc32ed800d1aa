"""Memory that frameworks keep of earlier trials goes back before a kernel is timed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import simulated_gpu as simulated
from simulated_gpu import US, Gpu

from pytest_autotune.bench import foreign_memory
from pytest_autotune.bench.measure import measure
from pytest_autotune.gpu import cuda as cuda_driver

clock, gpu = simulated.clock, simulated.gpu


@pytest.fixture
def log(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The simulated device's log, which PyTorch and CuPy write to as well."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True, empty_cache=lambda: gpu.log.append("torch gave back")
    )
    pool = SimpleNamespace(free_all_blocks=lambda: gpu.log.append("cupy gave back"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    cupy = SimpleNamespace(get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda_driver, "started", lambda: True)
    return gpu.log


def test_caches_go_back_before_timing_takes_its_buffer(gpu: Gpu, log: list[str]) -> None:
    measure(lambda: gpu.kernel(100 * US), max_time=0.1)
    flush = next(number for number, entry in enumerate(log) if entry.startswith("flusher"))
    assert log.index("torch gave back") < flush
    assert log.index("cupy gave back") < flush


def test_nobody_is_asked_where_cuda_has_not_started(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To ask CuPy for its pool would start CUDA.
    monkeypatch.setattr(cuda_driver, "started", lambda: False)
    foreign_memory.give_back_caches()
    assert log == []
