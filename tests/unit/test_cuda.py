"""The CUDA driver library that a process has loaded, and nothing that it has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from compiled import need_compiled
from fake_cuda import in_child

from pytest_autotune.gpu import cuda as cuda_module
from pytest_autotune.gpu.cuda import started


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_cuda_has_started_where_torch_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cuda_module, "_DESCRIPTORS", tmp_path)
    runs = False
    torch = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: runs))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert not started()
    runs = True
    assert started()


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("device", ["/dev/nvidia-uvm", "/dev/kfd"])
def test_cuda_has_started_where_its_device_is_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    monkeypatch.setattr(cuda_module, "_DESCRIPTORS", tmp_path)
    (tmp_path / "0").symlink_to("/dev/null")
    # What NVML opens does not count.
    (tmp_path / "1").symlink_to("/dev/nvidiactl")
    (tmp_path / "2").symlink_to("/dev/nvidia0")
    (tmp_path / "3").write_text("no link")
    assert not started()
    (tmp_path / "4").symlink_to(device)
    assert started()
    monkeypatch.setattr(cuda_module, "_DESCRIPTORS", tmp_path / "none")
    assert not started()


def test_a_library_that_is_not_loaded_stays_so(fake_cuda: Path) -> None:
    code = """
from pytest_autotune.gpu import cuda
print(cuda.started(), cuda.waiter(), cuda.synchronize())
print("libcuda" in open("/proc/self/maps").read())
"""
    environment = {"LD_LIBRARY_PATH": str(fake_cuda.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False None None", "False"]


def test_without_a_device_file_the_loaded_library_says_whether_cuda_has_started(
    fake_cuda: Path,
) -> None:
    code = """
from pytest_autotune.gpu import cuda
print(cuda.started(), cuda.waiter(), driver.fakeInits())
driver.cuInit(0)
print(cuda.started(), cuda.waiter(), driver.fakeInits(), driver.fakeCreated())
start()
print(cuda.started(), cuda.waiter() is not None, driver.fakeCreated())
"""
    assert in_child(fake_cuda, code).splitlines() == [
        "False None 0",
        # It sees no other devices any more, but has nothing to wait for.
        "True None 1 0",
        "True True 1",
    ]


def test_a_forked_child_asks_nothing_of_the_parents_cuda(fake_cuda: Path) -> None:
    code = """
import os
from pytest_autotune.gpu import cuda
start()
if not os.fork():
    print(cuda.started(), cuda.synchronize(), flush=True)
    os._exit(0)
os.wait()
"""
    assert in_child(fake_cuda, code) == "False None"


def test_it_waits_for_the_work_of_all_devices_and_leaves_the_current_one(fake_cuda: Path) -> None:
    code = """
import threading, time
from pytest_autotune.gpu import cuda
def current():
    found = ctypes.c_void_p()
    driver.cuCtxGetCurrent(ctypes.byref(found))
    return found.value
begin = time.monotonic()
start(1)
launch(100)
other = threading.Thread(target=lambda: (start(0), launch(200)))
other.start()
other.join()
before = current()
cuda.synchronize()
print(time.monotonic() - begin >= 0.2, driver.fakeSynchronized(), current() == before)
"""
    assert in_child(fake_cuda, code) == "True 2 True"


def test_it_waits_in_a_thread_that_has_no_current_context(fake_cuda: Path) -> None:
    code = """
import threading
from pytest_autotune.gpu import cuda
start()
launch(50)
other = threading.Thread(target=cuda.synchronize)
other.start()
other.join()
print(driver.fakeSynchronized())
"""
    assert in_child(fake_cuda, code) == "1"


def test_it_waits_for_a_context_that_is_not_primary_as_pycuda_has_it(fake_cuda: Path) -> None:
    code = """
from pytest_autotune.gpu import cuda
driver.cuInit(0)
driver.cuCtxCreate_v2(ctypes.byref(ctypes.c_void_p()), 0, 1)
launch(50)
cuda.synchronize()
print(driver.fakeSynchronized(), driver.fakeCreated())
"""
    assert in_child(fake_cuda, code) == "1 1"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"),
        (710, "CUDA_ERROR_ASSERT: device-side assert triggered"),
        (12345, "CUDA error 12345: CUDA error 12345"),
    ],
)
def test_an_error_of_earlier_work_is_raised_in_the_drivers_words_each_time(
    fake_cuda: Path, error: int, words: str
) -> None:
    code = f"""
from pytest_autotune.gpu import cuda
start()
cuda.synchronize()
launch(10, {error})
for _ in range(2):
    try:
        cuda.synchronize()
    except cuda.CudaError as error:
        print(error, "|", error.name)
"""
    name = words.partition(":")[0]
    assert in_child(fake_cuda, code).splitlines() == [f"{words} | {name}"] * 2


def test_an_error_on_a_device_that_is_not_the_current_one_is_raised(fake_cuda: Path) -> None:
    code = """
from pytest_autotune.gpu import cuda
start(0)
launch(0, 700)
start(1)
try:
    cuda.synchronize()
except cuda.CudaError as error:
    print(error.name)
"""
    assert in_child(fake_cuda, code) == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_a_context_that_is_gone_since_is_not_waited_for(fake_cuda: Path) -> None:
    code = """
from pytest_autotune.gpu import cuda
start()
wait = cuda.waiter()
wait()
driver.cuCtxSetCurrent(None)
driver.cuDevicePrimaryCtxRelease_v2(0)
wait()
print(driver.fakeSynchronized(), cuda.waiter())
"""
    assert in_child(fake_cuda, code) == "1 None"


HIP = """
import ctypes
from pathlib import Path
from pytest_autotune.gpu import cuda
hip = ctypes.CDLL({library!r})
print(cuda.waiter(), hip.fakeSynchronized())
cuda._DESCRIPTORS = Path({folder!r})  # as if HIP had opened its device
cuda.synchronize()
print(hip.fakeSynchronized())
hip.fakeFail(700)
try:
    cuda.synchronize()
except cuda.CudaError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["libamdhip64.so.7", "libamdhip64.so"])
def test_hip_is_waited_for_once_it_has_started(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    library = need_compiled(tmp_path_factory, "fake_hip.c", name)
    (tmp_path / "4").symlink_to("/dev/kfd")
    code = HIP.format(library=str(library), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "None 0",
        "1",
        "hipErrorIllegalAddress: an illegal memory access was encountered",
    ]


def test_the_devices_that_cuda_sees_are_told_in_its_order(fake_cuda: Path) -> None:
    code = """
print(cuda.uuids())
driver.cuInit(0)
print(*cuda.uuids())
"""
    code = f"from pytest_autotune.gpu import cuda\n{code}"
    assert in_child(fake_cuda, code).splitlines() == [
        "()",
        "00000000-0000-0000-0000-000000000001 00000000-0000-0000-0000-000000000000",
    ]
