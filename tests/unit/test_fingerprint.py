"""What measurements of two machines must have in common to be compared."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import pytest
from fake_nvml import Asked, FakeNvml

from pytest_autotune.gpu.visible import Device, VisibleGpus, adopt
from pytest_autotune.study import environment
from pytest_autotune.study.environment import LIBRARIES, fingerprint, visible_gpus

ALWAYS = ["cpu", "cpus", "memory", "gpus", "libraries", "machine", "python", "system"]
OF_GPUS = ["gpu_driver", "cuda", "gpu_clocks"]
CLOCKS = "application clocks 1980/2619 MHz, power limit 700 W, persistence on"
#: Asks anew, as the process keeps what it was told.
_SETUP = """
import os
from pytest_autotune.study import environment
from pytest_autotune.gpu import visible as gpus
def found(visible=None):
    for kept in (environment._gpus, gpus._visible_gpus, inventory, driver_version):
        kept.cache_clear()
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return dict(environment.fingerprint())
"""
Found: TypeAlias = Mapping[str, str]


@pytest.fixture
def none() -> Iterator[None]:
    adopt(VisibleGpus(problem="no driver"))
    environment._libraries.cache_clear()
    yield
    adopt(None)
    environment._libraries.cache_clear()


@pytest.fixture
def asked(fake: FakeNvml) -> Iterator[Asked]:
    with Asked(fake.environment) as process:
        process.do(_SETUP)
        yield process


def ask(asked: Asked, visible: str | None = None) -> Found:
    found: Found = asked.ask(f"found({visible!r})")
    return found


@pytest.mark.usefixtures("none")
def test_a_machine_without_gpus_has_a_fingerprint_of_texts() -> None:
    found = fingerprint()
    assert list(found) == ALWAYS
    assert all(isinstance(value, str) and value for value in found.values())
    assert json.loads(json.dumps(found)) == found
    assert found["gpus"] == "none"
    assert found["cpus"] == str(os.cpu_count())
    assert found["memory"].endswith(" GiB")
    assert found["machine"] == platform.machine()
    assert found["system"] == platform.system()
    assert found["python"].startswith(f"{sys.implementation.name} {sys.version_info[0]}.")
    assert visible_gpus() == 0
    assert fingerprint() == found


@pytest.mark.usefixtures("none")
def test_equal_machines_of_a_fleet_have_equal_fingerprints() -> None:
    assert platform.node() not in fingerprint().values()


@pytest.mark.usefixtures("none")
def test_libraries_that_change_times_are_told_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.9.1", "triton": "3.5", "numpy": "2.3", "pytest": "9"}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)
    assert fingerprint()["libraries"] == "numpy 2.3, torch 2.9.1, triton 3.5"
    installed.clear()
    environment._libraries.cache_clear()
    assert fingerprint()["libraries"] == "none"
    assert list(LIBRARIES) == sorted(LIBRARIES)


@pytest.mark.usefixtures("none")
def test_a_system_that_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def sysconf(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert fingerprint()["memory"] == "unknown"
    monkeypatch.setattr(environment, "_CPUINFO", Path("/no/such/file"))
    environment._cpu_model.cache_clear()
    try:
        assert fingerprint()["cpu"] == (platform.processor() or platform.machine())
    finally:
        environment._cpu_model.cache_clear()


def test_devices_that_nobody_can_tell_of_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    adopt(VisibleGpus(devices=tuple(Device(key=f"index-{n}", visible=f"{n}") for n in range(2))))
    try:
        found = fingerprint()
        assert found["gpus"] == "2 × unknown"
        assert list(found) == ALWAYS
        assert visible_gpus() == 2
    finally:
        adopt(None)


def test_devices_are_told_with_driver_cuda_and_clocks(asked: Asked) -> None:
    found = ask(asked)
    assert list(found) == [*ALWAYS[:4], *OF_GPUS, *ALWAYS[4:]]
    assert found["gpus"] == "8 × NVIDIA H100 80GB HBM3"
    assert found["gpu_driver"] == "570.86.15"
    assert found["cuda"] == "12.8"
    assert found["gpu_clocks"] == CLOCKS


def test_only_devices_that_may_be_used_count(fake: FakeNvml, asked: Asked) -> None:
    fake.set("7.name", "NVIDIA L4")
    fake.set("7.power_limit", 72_000)
    assert ask(asked)["gpus"] == "7 × NVIDIA H100 80GB HBM3, 1 × NVIDIA L4"
    assert ask(asked)["gpu_clocks"] == f"{CLOCKS}; {CLOCKS.replace('700', '72')}"
    for visible in ("0,1", "1,0", "5,6"):
        found = ask(asked, visible)
        assert (found["gpus"], found["gpu_clocks"]) == ("2 × NVIDIA H100 80GB HBM3", CLOCKS)
    found = ask(asked, "7")
    assert found["gpus"] == "1 × NVIDIA L4"
    assert "72 W" in found["gpu_clocks"]
    none = ask(asked, "")
    assert list(none) == ALWAYS
    assert none["gpus"] == "none"


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("0.name", "NVIDIA A100-SXM4-80GB", {"gpus"}),
        ("devices", 4, {"gpus"}),
        ("driver", "580.1", {"gpu_driver"}),
        ("cuda", 13000, {"cuda"}),
        ("0.power_limit", 500_000, {"gpu_clocks"}),
        ("0.application_clock", 1500, {"gpu_clocks"}),
        ("0.mig", 2, {"gpus"}),
        # Not what changes by itself.
        ("0.temperature", 80, set()),
        ("0.power", 600_000, set()),
        ("0.memory_used", 2**34, set()),
    ],
)
def test_what_changes_measurements_changes_the_fingerprint(
    fake: FakeNvml, asked: Asked, key: str, value: object, changed: set[str]
) -> None:
    before = ask(asked)
    fake.set(key, value)
    after = ask(asked)
    assert {name for name in before if before[name] != after.get(name)} == changed
    assert set(after) == set(before)


def test_a_device_that_does_not_tell_its_clocks_has_a_fingerprint(
    fake: FakeNvml, asked: Asked
) -> None:
    fake.set("devices", 1)
    fake.set(
        "0.unsupported",
        "application_clock,application_memory_clock,power_limit,persistence,memory",
    )
    found = ask(asked)
    assert found["gpus"] == "1 × NVIDIA H100 80GB HBM3"
    assert found.get("gpu_clocks", "") == ""
    # Lost after it was found.
    asked.do("environment._gpus.cache_clear()")
    fake.set("0.error", 15)
    assert asked.ask("environment.fingerprint()['gpus']") == "1 × NVIDIA H100 80GB HBM3"


def test_the_driver_is_asked_once_per_process(fake: FakeNvml, asked: Asked) -> None:
    before = ask(asked)
    fake.set("0.power_limit", 100_000)
    assert dict(asked.ask("environment.fingerprint()")) == before
