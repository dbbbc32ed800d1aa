"""The peak of memory is that of the place where the work is done, or is left out."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_autotune.bench import memory
from pytest_autotune.bench.measure import measure
from pytest_autotune.bench.memory import JAX_REMARK
from pytest_autotune.bench.timing import Timing


class Device:
    """A device of JAX, whose peak never falls."""

    def __init__(self, platform: str = "gpu") -> None:
        self.platform = platform
        self.stats: dict[str, int] | None = {"peak_bytes_in_use": 0, "bytes_in_use": 0}

    def memory_stats(self) -> dict[str, int] | None:
        return self.stats

    def use(self, size: int) -> None:
        assert self.stats is not None
        self.stats["peak_bytes_in_use"] = max(self.stats["peak_bytes_in_use"], size)


@pytest.fixture(autouse=True)
def jax(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("jax")
    module.block_until_ready = lambda values: values
    monkeypatch.setitem(sys.modules, "jax", module)
    monkeypatch.setattr(memory, "_REPORTED", {})


def array(*devices: Device) -> Any:
    attributes = {"__module__": "jaxlib._jax", "dtype": "f4", "devices": lambda self: set(devices)}
    return type("ArrayImpl", (), attributes)()


def run(device: Device, size: int) -> Timing:
    def kernel() -> Any:
        device.use(size)
        return array(device)

    return measure(kernel, max_time=0.02, warmup_time=0.0)


def test_jax_on_a_gpu_tells_the_peak_of_its_device() -> None:
    found = run(Device(), 3 * 2**20)
    assert found.metrics["peak_memory_mib"] == 3
    assert not any("peak_memory" in note for note in found.notes)


def test_a_peak_of_jax_that_an_earlier_measurement_set_is_not_reported_again() -> None:
    device = Device()
    assert run(device, 3 * 2**20).peak_memory == 3 * 2**20
    smaller = run(device, 2**20)
    assert "peak_memory_mib" not in smaller.metrics
    assert f"e2e_latency: {JAX_REMARK}" in smaller.notes
    assert run(device, 5 * 2**20).metrics["peak_memory_mib"] == 5
    # Another device has its own.
    assert run(Device(), 2**20).metrics["peak_memory_mib"] == 1


def test_a_device_of_jax_that_tells_nothing_leaves_the_peak_out() -> None:
    device = Device()
    device.use = lambda size: None  # type: ignore[method-assign]
    device.stats = None
    found = run(device, 1)
    assert "peak_memory_mib" not in found.metrics
    assert f"e2e_latency: {JAX_REMARK}" in found.notes


def test_jax_on_the_cpu_is_traced_as_other_python_is() -> None:
    found = run(Device("cpu"), 3 * 2**20)
    assert 0 < found.metrics["peak_memory_mib"] < 1
    assert not any("peak_memory" in note for note in found.notes)


def test_of_several_devices_it_is_the_fullest() -> None:
    first, second = Device(), Device()
    first.use(2**20)
    second.use(2**21)
    assert measure(lambda: array(first, second), max_time=0.02).peak_memory == 2**21


def test_arrays_on_several_devices_of_torch_are_not_taken_for_memory_of_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch: Any = ModuleType("torch")
    torch.cuda = SimpleNamespace(
        is_initialized=lambda: True, synchronize=lambda index: None, empty_cache=lambda: None
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    tensors = [
        type("Tensor", (), {"__module__": "torch", "is_cuda": True, "device": each})()
        for each in (SimpleNamespace(index=0), SimpleNamespace(index=1))
    ]
    found = measure(lambda *_: None, *tensors, backend="host", max_time=0.02)
    assert found.peak_memory is None
