"""The GPU's health in a process, asked of the fake driver in processes of their own."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cuda import in_child

from pytest_autotune.gpu import cuda
from pytest_autotune.gpu.health import DeviceHealth

CHILD = """
from pytest_autotune.gpu.health import DeviceHealth
health = DeviceHealth()
"""


def test_nothing_is_asked_where_the_gpu_is_not_used(fake_cuda: Path) -> None:
    code = CHILD + "print(health.look(), health.look(5), health.in_use, driver.fakeSynchronized())"
    assert in_child(fake_cuda, code) == "None None False 0"


@pytest.mark.parametrize("patience", [None, 30])
def test_an_error_stays_and_the_driver_is_not_asked_again(
    fake_cuda: Path, patience: float | None
) -> None:
    code = f"""{CHILD}
start()
launch(50)
print(health.look({patience}), health.in_use)
launch(50, error=710)
print(health.look({patience}))
asked = driver.fakeSynchronized()
print(health.look({patience}) is health.look(), driver.fakeSynchronized() == asked)
"""
    assert in_child(fake_cuda, code).splitlines() == [
        "None True",
        "CUDA_ERROR_ASSERT: device-side assert triggered",
        "True True",
    ]


def test_work_that_does_not_end_is_not_waited_for(fake_cuda: Path) -> None:
    code = CHILD + "start(); launch(3_600_000); print(health.look(0.5))"
    assert in_child(fake_cuda, code) == "the GPU is busy: its work did not end within 0.5 s"


def test_torch_names_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def synchronize() -> None:
        threads.append(threading.current_thread())
        raise RuntimeError("CUDA error: misaligned address\nCompile with TORCH_USE_CUDA_DSA")

    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(cuda, "waiter", lambda: None)
    for patience in (None, 30.0):
        health = DeviceHealth()
        assert str(health.look(patience)) == "CUDA error: misaligned address"
    here = threading.main_thread()
    assert threads[0] is here
    assert threads[1] is not here
