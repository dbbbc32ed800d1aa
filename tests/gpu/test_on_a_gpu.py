"""What only a GPU can show. Skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from ruamel.yaml import YAML

from pytest_autotune.bench import energy
from pytest_autotune.bench.measure import measure
from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.inventory import inventory
from pytest_autotune.gpu.telemetry import Telemetry
from pytest_autotune.gpu.visible import Device, caller_gpus

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "triton_matmul"
#: Of a block, in bytes: the limit of the example's spec.
H100_SHARED_MEMORY = 232_448


@pytest.fixture(scope="module")
def device() -> Device:
    found = inventory()
    if found.source != "nvml":
        pytest.skip(f"no GPU with NVML: {found.problem}")
    if not caller_gpus().devices:
        pytest.skip(f"no GPU to use: {caller_gpus().problem}")
    return caller_gpus().devices[0]


@pytest.fixture(scope="module")
def torch(device: Device) -> Any:
    del device
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not module.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    return module


def in_a_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


def test_a_real_device_tells_what_telemetry_is_made_of(device: Device) -> None:
    assert device.uuid is not None
    reading = nvml.read(device.uuid)
    assert reading.temperature is not None
    assert 0 < reading.temperature < 120
    assert reading.sm_clock is not None
    assert nvml.driver().version


@pytest.mark.usefixtures("torch")
def test_cuda_is_seen_to_start_and_nvml_is_not_taken_for_it() -> None:
    seen = in_a_process(
        "from pytest_autotune.gpu import nvml\n"
        "from pytest_autotune.gpu import cuda\n"
        "nvml.gpus()\n"
        "before = cuda.started()\n"
        "import torch, sys\n"
        "torch.zeros(1, device='cuda')\n"
        "with_torch = cuda.started()\n"
        "del sys.modules['torch']\n"  # what any other framework would show
        "print(before, with_torch, cuda.started())\n"
    )
    assert seen == "False True True"


def test_kernels_are_timed_by_events_and_graphs(torch: Any) -> None:
    a = torch.randn(1024, 1024, dtype=torch.float16, device="cuda")
    found = measure(torch.matmul, a, a, flop=2 * 1024**3, max_time=1)
    assert "events of torch" in found.timer
    assert 1e-6 < found.median < 1e-2
    assert found.metrics["tflop_per_s"] > 0.1
    assert found.metrics["peak_memory_mib"] >= 2
    graph = measure(torch.matmul, a, a, graph=True, max_time=1)
    assert "CUDA graph" in graph.timer
    # Warm caches and no launches: not slower, but for noise.
    assert graph.median < 1.2 * found.median


def test_the_host_is_not_timed_in_place_of_the_device(torch: Any) -> None:
    cycles = 10_000_000  # some milliseconds on any clock
    found = measure(torch.cuda._sleep, cycles, backend="torch", max_time=0.5)
    assert found.median > 1e-3
    assert found.host_time is not None
    assert found.host_time < found.median


def test_energy_is_measured(torch: Any, device: Device) -> None:
    assert device.uuid is not None
    if nvml.read(device.uuid).energy is None:
        pytest.skip("this device has no energy counter")
    a = torch.randn(4096, 4096, dtype=torch.float16, device="cuda")
    found = measure(
        torch.matmul, a, a, max_time=0.5, energy=True, watch=lambda: Telemetry([device])
    )
    assert found.energy is not None
    # Between one watt and ten kilowatts while it ran.
    assert 1 < found.energy / found.median < 10_000
    assert found.metrics["mean_gpu_power_w"] > 1


@pytest.mark.parametrize(("seconds", "apart"), [(1.0, 0.15), (3.0, 0.05)])
def test_energy_is_the_same_each_time(
    torch: Any, device: Device, monkeypatch: pytest.MonkeyPatch, seconds: float, apart: float
) -> None:
    assert device.uuid is not None
    if nvml.read(device.uuid).energy is None:
        pytest.skip("this device has no energy counter")
    monkeypatch.setattr(energy, "_ENERGY_SECONDS", seconds)
    a = torch.randn(4096, 4096, dtype=torch.float16, device="cuda")
    found = [
        measure(
            torch.matmul, a, a, graph=True, energy=True, watch=lambda: Telemetry([device])
        ).energy
        for _ in range(5)
    ]
    print(f"energy of a call over {seconds:g} s, five times: {found} J")
    assert None not in found
    assert found == pytest.approx([median(filter(None, found))] * 5, rel=apart)


def test_clocks_have_settled_before_anything_is_timed(torch: Any, device: Device) -> None:
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    short, long = (
        measure(torch.matmul, a, a, max_time=time, width=width, watch=lambda: Telemetry([device]))
        for time, width in ((0.1, 0.02), (3.0, 1e-6))
    )
    for found in (short, long):
        print(found, dict(found.telemetry), sep="\n")
    assert short.median == pytest.approx(long.median, rel=0.02)


_BESIDE = """
import pathlib, sys, time, torch
a = torch.randn(4096, 4096, dtype=torch.float16, device="cuda")
torch.cuda.synchronize()
pathlib.Path(sys.argv[2]).touch()
while sys.argv[1] == "computes":
    torch.matmul(a, a)
    torch.cuda.synchronize()
time.sleep(600)
"""


@contextmanager
def beside(what: str, ready: Path) -> Iterator[None]:
    """Somebody else's process on the device, which does not descend from this one."""
    launch = f'"{sys.executable}" -c "$0" "$1" "$2" >/dev/null 2>&1 & echo $!'
    command = ["sh", "-c", launch, _BESIDE, what, str(ready)]
    pid = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    try:
        limit = time.monotonic() + 120
        while not ready.exists():
            assert time.monotonic() < limit, "the other process did not start"
            time.sleep(0.1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("seconds", [0.1, 2.0])
@pytest.mark.parametrize("what", ["computes", "holds memory"])
def test_a_process_beside_is_a_disturbance_if_it_computes(
    torch: Any, device: Device, tmp_path: Path, what: str, seconds: float
) -> None:
    if device.uuid is None or nvml.busy(device.uuid, 0.0) is None:
        pytest.skip("the driver does not tell who computes on this device")
    a = torch.randn(2048, 2048, dtype=torch.float16, device="cuda")
    with beside(what, tmp_path / "ready"):
        found = measure(
            torch.matmul, a, a, max_time=seconds, width=1e-6, watch=lambda: Telemetry([device])
        )
    print(found)
    assert found.reliable is (what == "holds memory")
    if found.reliable:
        assert any("was held by others, too" in note for note in found.notes)


def fitted(spec: str, shared_memory: int) -> str:
    """Return the example's spec for a card whose blocks have so many bytes of shared memory."""
    limit = f"<= {H100_SHARED_MEMORY}\n"
    assert spec.count(limit) == 1, "the constraint of the example has changed"
    return spec.replace(limit, f"<= {min(shared_memory, H100_SHARED_MEMORY)}\n")


def test_the_example_fits_a_card_with_little_shared_memory() -> None:
    spec = (EXAMPLE / "matmul.yaml").read_text()
    found = YAML(typ="safe").load(fitted(spec, 101_376))
    assert found["constraints"][0].endswith("<= 101376")
    assert fitted(spec, 10**6) == spec


@pytest.mark.usefixtures("torch")
def test_the_example_is_tuned(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    properties = triton.runtime.driver.active.utils.get_device_properties(0)
    example = tmp_path / "example"
    shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    spec = example / "matmul.yaml"
    spec.write_text(fitted(spec.read_text(), properties["max_shared_mem"]))
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--autotune", str(example), "--autotune-trials", "3",
            "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
        ],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "3 of 3" in done.stdout, done.stdout
    assert done.returncode == pytest.ExitCode.OK, done.stdout
