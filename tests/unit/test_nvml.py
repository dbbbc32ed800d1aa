"""What NVML tells of devices, through the real pynvml and a fake library behind it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import Asked, FakeNvml

from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.nvml import NvmlUnavailable
from pytest_autotune.gpu.readings import DISTURBING, Driver, Gpu, Mig, Process, Reading

GIB = 2**30


def uuid(index: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{index:012d}"


def instance(index: int, number: int) -> str:
    return f"MIG-00000000-0000-0000-0000-{index:011d}{number}"


@pytest.fixture
def asked(fake: FakeNvml) -> Iterator[Asked]:
    with Asked(fake.environment) as process:
        yield process


def read(asked: Asked, of: str) -> Reading:
    reading = asked.ask(f"nvml.read({of!r})")
    assert isinstance(reading, Reading)
    return reading


def test_eight_devices_are_found(asked: Asked) -> None:
    gpus = asked.ask("nvml.gpus()")
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert [gpu.uuid for gpu in gpus] == [uuid(index) for index in range(8)]
    assert gpus[7] == Gpu(
        index=7,
        uuid=uuid(7),
        name="NVIDIA H100 80GB HBM3",
        memory=85520809984,
    )


def test_there_may_be_no_device(fake: FakeNvml, asked: Asked) -> None:
    fake.set("devices", 0)
    assert asked.ask("nvml.gpus()") == ()


@pytest.mark.parametrize("status", [4, 8, 15, 16])
def test_a_device_that_cannot_be_used_hides_no_other(
    fake: FakeNvml, asked: Asked, status: int
) -> None:
    fake.set("devices", 3)
    fake.set("1.error", status)
    assert [gpu.index for gpu in asked.ask("nvml.gpus()")] == [0, 2]


def test_a_device_without_memory_of_its_own_has_none(fake: FakeNvml, asked: Asked) -> None:
    fake.set("devices", 1)
    fake.set("0.unsupported", "memory,mig")
    (gpu,) = asked.ask("nvml.gpus()")
    assert gpu.memory == 0
    assert gpu.mig == ()
    assert read(asked, uuid(0)).memory_used is None


def test_mig_instances_are_listed_with_their_device(fake: FakeNvml, asked: Asked) -> None:
    fake.set("devices", 2)
    fake.set("1.mig", 2)
    fake.set("1m1.name", "NVIDIA H100 80GB HBM3 MIG 3g.40gb")
    fake.set("1m1.memory", 40 * GIB)
    first, second = asked.ask("nvml.gpus()")
    assert first.mig == ()
    assert second.mig == (
        Mig(
            uuid=instance(1, 0),
            name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            memory=10468982784,
        ),
        Mig(
            uuid=instance(1, 1),
            name="NVIDIA H100 80GB HBM3 MIG 3g.40gb",
            memory=40 * GIB,
        ),
    )


def test_mig_mode_is_known_also_without_instances(fake: FakeNvml, asked: Asked) -> None:
    fake.set("devices", 3)
    fake.set("0.mig_mode", 1)
    fake.set("1.mig", 1)
    found = asked.ask("nvml.gpus()")
    assert [(gpu.mig_mode, len(gpu.mig)) for gpu in found] == [(True, 0), (True, 1), (False, 0)]


@pytest.mark.parametrize("count", [1, 7])
def test_empty_slots_of_instances_are_passed_over(fake: FakeNvml, asked: Asked, count: int) -> None:
    fake.set("devices", 1)
    fake.set("0.mig", count)
    (gpu,) = asked.ask("nvml.gpus()")
    assert [mig.uuid for mig in gpu.mig] == [instance(0, number) for number in range(count)]


def test_the_driver_tells_its_version_and_that_of_cuda(fake: FakeNvml, asked: Asked) -> None:
    assert asked.ask("nvml.driver()") == Driver(version="570.86.15", cuda="12.8")
    fake.set("driver", "610.1")
    fake.set("cuda", 13010)
    assert asked.ask("nvml.driver()") == Driver(version="610.1", cuda="13.1")


def test_a_reading_is_in_plain_units(fake: FakeNvml, asked: Asked) -> None:
    for key, value in {
        "power": 350_500,
        "energy": 123_456,
        "sm_clock": 1755,
        "temperature": 66,
        "throttle": 0x4,
        "memory_used": 3 * GIB,
    }.items():
        fake.set(f"3.{key}", value)
    assert read(asked, uuid(3)) == Reading(
        power=350.5,
        energy=123.456,
        sm_clock=1755,
        temperature=66,
        throttle=frozenset({"power cap"}),
        memory_used=3 * GIB,
    )


def test_a_device_can_change_between_two_readings(fake: FakeNvml, asked: Asked) -> None:
    before = read(asked, uuid(0))
    fake.set("0.temperature", 91)
    fake.set("0.throttle", "0x48")
    after = read(asked, uuid(0))
    assert (before.temperature, before.throttle) == (35, frozenset())
    assert after.temperature == 91
    assert after.throttle == {"hardware slowdown", "thermal (hardware)"}
    fake.unset("0.throttle")
    assert not read(asked, uuid(0)).throttle


def test_every_reason_of_throttling_has_a_name_but_idleness(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.throttle", 0x7FF)
    throttle = read(asked, uuid(0)).throttle
    assert throttle == {
        "application clocks",
        "board limit",
        "display clocks",
        "hardware slowdown",
        "power brake",
        "power cap",
        "sync boost",
        "thermal (hardware)",
        "thermal (software)",
        "voltage (reliability)",
    }
    assert throttle > DISTURBING
    fake.set("0.throttle", 0x1)
    assert read(asked, uuid(0)).throttle == frozenset()


def test_every_reason_that_the_library_knows_has_a_name(fake: FakeNvml, asked: Asked) -> None:
    asked.do("import pynvml")
    known: int = asked.ask("pynvml.nvmlClocksThrottleReasonAll")
    fake.set("0.throttle", known)
    assert len(read(asked, uuid(0)).throttle) == known.bit_count() - 1  # but for idleness


@pytest.mark.parametrize(("bits", "idle"), [(0x1, True), (0x5, True), (0x4, False), (0x0, False)])
def test_an_idle_device_is_known(fake: FakeNvml, asked: Asked, bits: int, *, idle: bool) -> None:
    fake.set("0.throttle", bits)
    assert read(asked, uuid(0)).idle is idle
    fake.set("0.unsupported", "throttle")
    assert not read(asked, uuid(0)).idle


def test_power_is_that_of_the_moment(fake: FakeNvml, asked: Asked) -> None:
    # It has just begun to work, so the mean of the last second is that of an idle card.
    fake.set("0.idle_power", 70_000)
    fake.set("0.power", 700_000)
    fake.set("0.power_since", asked.ask("__import__('time').time()"))
    asked.do("import pynvml; nvml.gpus(); handle = pynvml.nvmlDeviceGetHandleByIndex(0)")
    mean = asked.ask("pynvml.nvmlDeviceGetPowerUsage(handle)")
    reading = read(asked, uuid(0))
    assert reading.power == 700.0
    assert mean < 700_000


def test_a_mean_of_a_second_is_not_taken_for_power(fake: FakeNvml, asked: Asked) -> None:
    fake.set("missing", "nvmlDeviceGetFieldValues")
    assert read(asked, uuid(0)).power is None
    # Cards without a counter of energy are old, and tell the power of the moment.
    fake.set("0.unsupported", "energy")
    assert read(asked, uuid(0)).power == 70.0


def test_who_computed_is_known_once_the_driver_has_sampled_it(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.processes", f"17:{GIB},42:{GIB}")
    fake.set("0.busy", "42")
    fake.set("0.sample_period", 100_000)
    asked.do(f"import time; since = time.time(); find = lambda t: nvml.busy({uuid(0)!r}, t)")
    sampled = asked.ask("since // 100 * 100")
    assert asked.ask(f"find({sampled - 1})") == {42: pytest.approx(sampled)}
    # Nothing is known of what came after, and not that nobody computed.
    assert asked.ask(f"find({sampled})") == {}
    fake.set("0.unsupported", "busy")
    assert asked.ask(f"find({sampled - 1})") is None


def test_a_power_cap_disturbs_no_measurement() -> None:
    assert "power cap" not in DISTURBING


@pytest.mark.parametrize(
    ("unsupported", "fields"),
    [
        ("energy,power", {"energy", "power"}),
        ("sm_clock", {"sm_clock"}),
        ("temperature", {"temperature"}),
        ("memory", {"memory_used"}),
    ],
)
def test_what_a_device_does_not_support_is_none(
    fake: FakeNvml, asked: Asked, unsupported: str, fields: set[str]
) -> None:
    fake.set("0.unsupported", unsupported)
    reading = read(asked, uuid(0))
    assert {name for name in Reading.__slots__ if getattr(reading, name) is None} == fields


def test_without_throttle_reasons_there_are_none(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.throttle", 0x8)
    fake.set("0.unsupported", "throttle")
    assert read(asked, uuid(0)).throttle == frozenset()


def test_drivers_old_and_new_are_asked_by_the_names_they_know(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.throttle", 0x80)
    fake.set("0.temperature", 50)
    fake.set("0.memory_used", GIB)
    fake.set("0.reserved", 0)
    fake.set("0.processes", "42:7")
    new = read(asked, uuid(0))
    for missing in (
        [
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetComputeRunningProcesses_v3",
        ],
        ["nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetTemperature"],
    ):
        fake.set("missing", ",".join(missing))
        assert read(asked, uuid(0)) == new
        assert asked.ask(f"nvml.processes({uuid(0)!r})") == (Process(pid=42, memory=7),)


def test_memory_that_the_driver_keeps_for_itself_is_not_used(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.reserved", GIB)
    fake.set("0.memory_used", 5)
    assert read(asked, uuid(0)).memory_used == 5


def test_what_an_instance_does_not_tell_is_told_by_its_device(fake: FakeNvml, asked: Asked) -> None:
    fake.set("1.mig", 2)
    fake.set("1.power", 200_000)
    fake.set("1.throttle", 0x20)
    fake.set("1.memory_used", 9 * GIB)
    fake.set("1m0.memory_used", GIB)
    reading = read(asked, instance(1, 0))
    assert reading.memory_used == GIB
    assert reading.throttle == {"thermal (software)"}
    assert reading.sm_clock == 1980
    # Those of the device are others', too.
    assert reading.power is None
    assert reading.energy is None


def test_processes_come_with_their_memory(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.processes", f"4242:{GIB},17")
    fake.set("0.graphics_processes", "99:1")
    assert asked.ask(f"nvml.processes({uuid(0)!r})") == (
        Process(pid=4242, memory=GIB),
        Process(pid=17, memory=None),
    )
    assert asked.ask(f"nvml.processes({uuid(1)!r})") == ()


def test_many_processes_are_all_listed(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.processes", ",".join(f"{pid}:1" for pid in range(100, 300)))
    found = asked.ask(f"nvml.processes({uuid(0)!r})")
    assert [process.pid for process in found] == list(range(100, 300))


def test_where_processes_are_unsupported_there_are_none(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.processes", "4242:1")
    fake.set("0.unsupported", "processes")
    assert asked.ask(f"nvml.processes({uuid(0)!r})") == ()


def test_an_instance_has_processes_of_its_own(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.mig", 2)
    fake.set("0.processes", "1:1,2:2")
    fake.set("0m1.processes", "2:2")
    assert asked.ask(f"nvml.processes({instance(0, 0)!r})") == ()
    assert asked.ask(f"nvml.processes({instance(0, 1)!r})") == (Process(pid=2, memory=2),)


def test_the_clocks_policy_is_a_short_text(fake: FakeNvml, asked: Asked) -> None:
    def policy(of: str = uuid(0)) -> object:
        return asked.ask(f"nvml.clocks_policy({of!r})")

    whole = "application clocks 1980/2619 MHz, power limit 700 W, persistence on"
    assert policy() == whole
    fake.set("0.mig", 1)
    assert policy(instance(0, 0)) == whole
    fake.set("0.unsupported", "application_clock")
    fake.set("0.power_limit", 350_500)
    fake.set("0.persistence", 0)
    assert policy() == "power limit 350.5 W, persistence off"
    fake.set("0.unsupported", "application_clock,power_limit,persistence")
    assert policy() == ""


@pytest.mark.parametrize("call", ["read", "processes", "clocks_policy"])
def test_an_unknown_device_is_named(asked: Asked, call: str) -> None:
    with pytest.raises(NvmlUnavailable, match="no NVIDIA device has the UUID GPU-no-such-thing"):
        asked.ask(f"nvml.{call}('GPU-no-such-thing')")


@pytest.mark.parametrize("call", ["read", "processes", "clocks_policy"])
def test_a_device_that_fell_off_the_bus_is_an_error(
    fake: FakeNvml, asked: Asked, call: str
) -> None:
    asked.ask(f"nvml.{call}({uuid(0)!r})")
    fake.set("0.error", 15)
    with pytest.raises(NvmlUnavailable, match="NVML failed: GPU is lost"):
        asked.ask(f"nvml.{call}({uuid(0)!r})")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            18,
            r"of different versions \(driver was updated\?\); reboot or reload the kernel module",
        ),
        (9, "the NVIDIA driver is not loaded; load its kernel module"),
        (4, "this user may not use the NVIDIA driver; check the permissions"),
        (999, "NVML failed: Unknown Error"),
        (77, "NVML failed: an error of the fake NVML"),
    ],
)
def test_a_failed_start_is_explained_each_time_it_is_asked(
    fake: FakeNvml, asked: Asked, status: int, words: str
) -> None:
    fake.set("init_error", status)
    for call in ("gpus()", "driver()", "read('GPU-0')", "gpus()"):
        with pytest.raises(NvmlUnavailable, match=words):
            asked.ask(f"nvml.{call}")
    assert fake.inits == 1


def test_a_missing_driver_library_is_explained(fake: FakeNvml, tmp_path: Path) -> None:
    # Found before any real one, and no library.
    (tmp_path / "libnvidia-ml.so.1").touch()
    environment = {**fake.environment, "LD_LIBRARY_PATH": str(tmp_path)}
    with (
        Asked(environment) as asked,
        pytest.raises(NvmlUnavailable, match=r"no library of the NVIDIA driver .* install"),
    ):
        asked.ask("nvml.gpus()")


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for _ in range(2):
        with pytest.raises(NvmlUnavailable) as caught:
            nvml.gpus()
        assert str(caught.value) == (
            "nvidia-ml-py is not installed; pip install 'pytest-autotune[gpu]'"
        )


def test_nothing_is_loaded_before_it_is_asked_for(fake: FakeNvml, asked: Asked) -> None:
    assert asked.ask("'pynvml' in __import__('sys').modules") is False
    assert fake.inits == 0


def test_threads_share_one_initialisation(fake: FakeNvml, asked: Asked) -> None:
    asked.do("""
import threading
found, together = [], threading.Barrier(16)
def look():
    together.wait()
    found.append(len(nvml.gpus()))
threads = [threading.Thread(target=look) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")
    assert asked.ask("found") == [8] * 16
    assert fake.inits == 1


def test_a_forked_process_initialises_again(fake: FakeNvml, asked: Asked) -> None:
    asked.do("""
import os
nvml.gpus()
# As by a thread that is just opening the library, and is not in the child.
library, lock = nvml._library, nvml._library._lock
reader, writer = os.pipe()
with lock:
    child = os.fork()
    if child == 0:
        os.write(writer, str(len(nvml.gpus())).encode())
        os._exit(0)
os.close(writer)
found = os.read(reader, 100)
os.waitpid(child, 0)
""")
    assert asked.ask("found") == b"8"
    assert fake.inits == 2
    assert asked.ask("len(nvml.gpus())") == 8
    assert fake.inits == 2
