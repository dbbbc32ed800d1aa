"""The same work on a real card, by every framework that is there, and on a card that was idle."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import pytest

from pytest_autotune.bench.frameworks import Framework
from pytest_autotune.bench.measure import measure

_BYTES: Final = 64 * 2**20
_IDLE_SECONDS: Final = 20.0
_BUSY_SECONDS: Final = 2.0


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not module.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    return module


def copies(torch: Any) -> Mapping[Framework, Callable[[], object]]:
    """Return a copy of as many bytes by each framework that is installed."""
    ours = torch.zeros(_BYTES, dtype=torch.uint8, device="cuda")
    into = torch.empty_like(ours)
    found: dict[Framework, Callable[[], object]] = {"torch": lambda: into.copy_(ours)}
    with suppress(ImportError):
        cupy = importlib.import_module("cupy")
        theirs = cupy.zeros(_BYTES, cupy.uint8)
        target = cupy.empty_like(theirs)
        found["cupy"] = lambda: cupy.copyto(target, theirs)
    with suppress(ImportError):
        cuda = importlib.import_module("numba.cuda")
        third = cuda.device_array(_BYTES, "uint8")
        last = cuda.device_array_like(third)
        found["numba"] = lambda: last.copy_to_device(third)
    return found


def test_frameworks_time_the_same_work_alike(torch: Any) -> None:
    found = {
        name: measure(copy, backend=name, max_time=1).median for name, copy in copies(torch).items()
    }
    print({name: f"{median * 1e6:.2f} µs" for name, median in found.items()})
    if len(found) == 1:
        pytest.skip("neither CuPy nor Numba is installed")
    assert found == pytest.approx(dict.fromkeys(found, found["torch"]), rel=0.05)


def test_a_card_that_was_idle_is_timed_as_one_that_was_busy(torch: Any) -> None:
    a = torch.randn(2048, 2048, dtype=torch.bfloat16, device="cuda")
    torch.matmul(a, a)
    torch.cuda.synchronize()
    time.sleep(_IDLE_SECONDS)
    idle = measure(torch.matmul, a, a, backend="torch", max_time=1)
    end = time.monotonic() + _BUSY_SECONDS
    while time.monotonic() < end:
        torch.matmul(a, a)
        torch.cuda.synchronize()
    busy = measure(torch.matmul, a, a, backend="torch", max_time=1)
    print("after 20 s idle:", idle, "\nafter 2 s of work:", busy)
    assert idle.median == pytest.approx(busy.median, rel=0.02)
