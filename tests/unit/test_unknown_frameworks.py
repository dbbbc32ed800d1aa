"""Calls of frameworks that are not known here: where CUDA runs, its driver waits for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from fake_cuda import in_child

from pytest_autotune.bench.memory import DRIVER_REMARK

QUICK: Final = "max_time=0.2, warmup_time=0.0"
BEGIN: Final = "from pytest_autotune import measure\nstart()\n"


@pytest.mark.parametrize("backend", ["auto", "host"])
def test_a_kernel_is_timed_to_its_end(fake_cuda: Path, backend: str) -> None:
    code = f"""{BEGIN}
found = measure(lambda: launch(20), backend={backend!r}, {QUICK})
print(min(found.samples) >= 0.020, found.timer)
print([note for note in found.notes if "peak_memory" in note])
print("peak_memory_mib" in found.metrics)
"""
    right, note, memory = in_child(fake_cuda, code).splitlines()
    assert right.startswith("True the host's clock (")
    assert right.endswith("waiting for all that CUDA does in this process)")
    assert note == f"{[f'e2e_latency: {DRIVER_REMARK}']}"
    assert memory == "False"


def test_the_first_call_is_waited_for_so_that_compiling_is_told_from_running(
    fake_cuda: Path,
) -> None:
    code = f"""{BEGIN}
calls = iter([200])
found = measure(lambda: launch(next(calls, 1)), {QUICK})
print(found.compile_time > 0.15)
"""
    assert in_child(fake_cuda, code) == "True"


def test_waiting_is_little_beside_what_is_waited_for(fake_cuda: Path) -> None:
    code = f"""{BEGIN}
driver.fakeCost(1)
found = measure(lambda: launch(1), {QUICK})
print(found.calls_per_sample)
"""
    # A sample is a hundred times what waiting takes alone. A call may be slow on a busy machine.
    assert int(in_child(fake_cuda, code)) >= 20


def test_an_error_of_a_kernel_is_raised_by_the_measurement_that_launched_it(
    fake_cuda: Path,
) -> None:
    code = f"""{BEGIN}
from pytest_autotune.gpu.cuda import CudaError
try:
    measure(lambda: launch(0, 700), {QUICK})
except CudaError as error:
    print(error)
"""
    assert in_child(fake_cuda, code) == (
        "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
    )


def test_without_cuda_nothing_is_waited_for(fake_cuda: Path) -> None:
    code = f"""
from pytest_autotune import measure
found = measure(lambda: 1, {QUICK})
print(found.timer, "peak_memory_mib" in found.metrics, driver.fakeInits())
"""
    said = in_child(fake_cuda, code)
    assert said.endswith(" CPUs) True 0")


@pytest.mark.parametrize("name", ["cupy", "numba.cuda"])
def test_a_measurement_on_the_host_does_not_start_cuda(fake_cuda: Path, name: str) -> None:
    code = f"""
import sys
from types import ModuleType, SimpleNamespace
from pytest_autotune import measure
module = ModuleType({name!r})
module.is_available = lambda: driver.cuInit(0) == 0  # as both answer it
module.cuda = module
sys.modules[{name!r}] = module
print(measure(lambda: 1, {QUICK}).timer.startswith("the host's clock"), driver.fakeInits())
"""
    assert in_child(fake_cuda, code) == "True 0"


def test_jax_waits_for_its_own_arrays_and_the_driver_for_what_it_does_not_know(
    fake_cuda: Path,
) -> None:
    code = f"""{BEGIN}
import sys
from types import ModuleType
jax = ModuleType("jax")
waited = []
jax.block_until_ready = waited.append
sys.modules["jax"] = jax
print(min(measure(lambda: launch(20), {QUICK}).samples) >= 0.020, len(waited) > 2)
before = driver.fakeSynchronized()
print("waiting" in measure(lambda: 1, backend="jax", {QUICK}).timer)
print(driver.fakeSynchronized() - before)
"""
    assert in_child(fake_cuda, code).splitlines() == ["True True", "False", "0"]
