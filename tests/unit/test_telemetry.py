"""What is seen of devices while something is measured, through a fake NVML in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from fake_nvml import Asked, FakeNvml

from pytest_autotune.gpu.readings import Process
from pytest_autotune.gpu.strangers import describe, strangers
from pytest_autotune.gpu.telemetry import Telemetry
from pytest_autotune.gpu.visible import Device
from pytest_autotune.system.processes import family

MIB = 2**20
#: Larger than any that Linux gives.
NOBODY = 2**22 + 1
_SETUP = """
import os, subprocess, sys, time
from pytest_autotune.gpu import strangers as of_others
from pytest_autotune.gpu.visible import Device
from pytest_autotune.gpu.strangers import describe, strangers
from pytest_autotune.gpu.telemetry import Telemetry
# As outside a container: the processes of these tests have no file of the driver open.
of_others._MACHINES_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino
def device(number, kind="GPU"):
    uuid = f"{kind}-00000000-0000-0000-0000-{number:012d}"
    return Device(key=uuid, visible=str(number), uuid=uuid)
"""


class Watched:
    """Telemetry in the process that has the fake NVML."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def begin(self, devices: str = "device(0)", others: str = "lambda process: True") -> None:
        self._asked.do(f"watch = Telemetry([{devices}], {others})\nwatch.__enter__()")

    def end(self) -> None:
        self._asked.do("watch.__exit__(None, None, None)")

    def end_after_a_second(self) -> None:
        """End once it is long enough for power to mean something."""
        self.sees("all(found[-1].at - found[0].at > 1.05 for found in watch._readings.values())")
        self.end()

    def sees(self, expression: str) -> None:
        """Wait until ``expression`` holds there, as it looks every so often."""
        limit = time.monotonic() + 60
        while not self._asked.ask(expression):
            assert time.monotonic() < limit, expression
            time.sleep(0.01)

    def __getattr__(self, name: str) -> Any:
        return self._asked.ask(f"watch.{name}")


@pytest.fixture
def asked(fake: FakeNvml) -> Iterator[Asked]:
    with Asked(fake.environment) as process:
        process.do(_SETUP)
        yield process


@pytest.fixture
def watch(asked: Asked) -> Watched:
    return Watched(asked)


@pytest.fixture
def relative(asked: Asked) -> Iterator[int]:
    """A process that descends from the one that watches, in the second generation."""
    asked.do(
        "child = subprocess.Popen("
        "[sys.executable, '-c', 'import subprocess, sys; "
        'print(subprocess.Popen(["sleep", "600"]).pid, flush=True); sys.stdin.read()\'], '
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)"
    )
    pid: int = asked.ask("int(child.stdout.readline())")
    yield pid
    os.kill(pid, 9)
    asked.do("child.communicate()")


@contextmanager
def sleeping(output: IO[str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, whatever happens in it."""
    with subprocess.Popen(["sleep", "600"], stdout=output) as process:
        try:
            yield process
        finally:
            process.kill()


# What disturbs


def test_undisturbed_devices_give_no_reason_for_doubt(fake: FakeNvml, watch: Watched) -> None:
    watch.begin("device(0), device(1)")
    watch.end()
    assert watch.disturbances == ()
    assert watch.remarks == ()


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0x8", "hardware slowdown"),
        ("0x20", "thermal (software)"),
        ("0xC9", "hardware slowdown, power brake, thermal (hardware)"),
    ],
)
def test_throttling_in_between_is_a_disturbance(
    fake: FakeNvml, watch: Watched, bits: str, reasons: str
) -> None:
    watch.begin("device(0), device(1)")
    fake.set("1.throttle", bits)
    watch.sees("watch.disturbances")
    fake.unset("1.throttle")
    watch.end()
    assert watch.disturbances == (f"GPU 1 was throttled ({reasons})",)
    assert watch.remarks == ()


def test_a_power_cap_is_worth_a_remark_only(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.throttle", "0x6")
    watch.begin()
    watch.end()
    assert watch.disturbances == ()
    assert watch.remarks == ("clocks of GPU 0 were limited (application clocks, power cap)",)


def test_throttling_and_a_power_cap_are_told_apart(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.throttle", "0x4C")
    watch.begin()
    watch.end()
    assert watch.disturbances == ("GPU 0 was throttled (hardware slowdown, thermal (hardware))",)
    assert watch.remarks == ("clocks of GPU 0 were limited (power cap)",)


def test_what_began_at_the_very_end_is_seen(fake: FakeNvml, watch: Watched) -> None:
    watch.begin()
    fake.set("0.throttle", "0x40")
    watch.end()
    assert watch.disturbances == ("GPU 0 was throttled (thermal (hardware))",)


# Other processes


def test_a_stranger_on_a_device_is_named(fake: FakeNvml, watch: Watched) -> None:
    # We are no descendant of the process that watches.
    fake.set("1.processes", f"{os.getpid()}:{512 * MIB}")
    watch.begin("device(0), device(1)")
    watch.end()
    name = Path("/proc/self/comm").read_text().strip()
    expected = f"GPU 1 was used by others, too: pid {os.getpid()} ({name}, 512 MiB)"
    assert watch.disturbances == (expected,)


def test_a_stranger_who_comes_and_goes_is_remembered(fake: FakeNvml, watch: Watched) -> None:
    with sleeping() as process:
        watch.begin()
        assert watch.disturbances == ()
        fake.set("0.processes", f"{process.pid}:,{os.getpid()}:{MIB}")
        watch.sees("len(watch._guests[device(0).key].working) == 2")
        assert f"pid {process.pid} (sleep), pid {os.getpid()} (" in watch.disturbances[0]
        # The driver remembers what they did.
        fake.set("0.busy", f"{process.pid},{os.getpid()}")
        fake.unset("0.processes")
    watch.end()
    (said,) = watch.disturbances
    assert said.startswith(f"GPU 0 was used by others, too: pid {process.pid}, pid {os.getpid()} (")


def test_who_works_for_us_is_no_stranger(
    fake: FakeNvml, asked: Asked, watch: Watched, relative: int
) -> None:
    own = asked.ask("os.getpid()")
    fake.set("0.processes", f"{own}:{MIB},{relative}:{MIB}")
    assert asked.ask("strangers(device(0))") == ()
    watch.begin()
    watch.end()
    assert watch.disturbances == ()
    fake.set("0.processes", f"{own}:{MIB},{relative}:{MIB},{os.getpid()}:{MIB}")
    assert asked.ask("strangers(device(0))") == (Process(pid=os.getpid(), memory=MIB),)


def test_a_number_that_is_no_process_here_is_left_out(
    fake: FakeNvml, asked: Asked, watch: Watched
) -> None:
    # As in a container, where the driver tells the host's numbers.
    fake.set("0.processes", f"{NOBODY}:{MIB}")
    watch.begin()
    watch.end()
    assert watch.disturbances == ()
    assert asked.ask("strangers(device(0))") == ()


def test_who_is_a_stranger_can_be_restricted(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.processes", f"{os.getpid()}:{MIB}")
    watch.begin(others=f"lambda process: process.pid != {os.getpid()}")
    watch.end()
    assert watch.disturbances == ()


def test_a_device_that_cannot_tell_has_no_strangers(fake: FakeNvml, asked: Asked) -> None:
    fake.set("0.processes", f"{os.getpid()}:{MIB}")
    fake.set("0.unsupported", "processes")
    assert asked.ask("strangers(device(0))") == ()
    fake.set("1.processes", f"{os.getpid()}:{MIB}")
    fake.set("1.error", 15)
    assert asked.ask("strangers(device(1))") == ()
    assert asked.ask("strangers(device(63))") == ()
    assert strangers(Device(key="index-0", visible="0")) == ()


def test_a_process_is_described_as_people_know_it() -> None:
    with sleeping() as process:
        comm = Path(f"/proc/{process.pid}/comm")
        while comm.read_text() != "sleep\n":  # until then it is what it was forked from
            time.sleep(0.01)
        assert describe(Process(pid=process.pid, memory=1024 * MIB)) == (
            f"pid {process.pid} (sleep, 1024 MiB)"
        )
        assert describe(Process(pid=process.pid, memory=None)) == f"pid {process.pid} (sleep)"
    assert describe(Process(pid=NOBODY, memory=None)) == f"pid {NOBODY}"
    assert describe(Process(pid=NOBODY, memory=MIB)) == f"pid {NOBODY} (1 MiB)"


_GENERATIONS = """
import os, subprocess, sys
# Names may hold anything.
open("/proc/self/comm", "w").write("x) 1 (y 2")
depth = int(sys.argv[1])
if depth:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:-1], str(depth - 1)])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_family_is_a_process_with_all_that_descend_from_it() -> None:
    command = [sys.executable, "-c", _GENERATIONS, "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(3)}
        found, ours = family(process.pid), family(os.getpid())
        process.communicate()
    assert found == pids
    assert ours >= {os.getpid(), *pids}
    assert os.getppid() not in ours
    assert family(NOBODY) == {NOBODY}


# Figures


def test_metrics_are_those_of_all_devices_together(fake: FakeNvml, watch: Watched) -> None:
    for number, (power, clock, memory, heat) in enumerate(
        [(300_000, 1500, 1000, 60), (400_000, 1700, 500, 70)]
    ):
        fake.set(f"{number}.power", power)
        fake.set(f"{number}.sm_clock", clock)
        fake.set(f"{number}.memory_used", memory * MIB)
        fake.set(f"{number}.temperature", heat)
        fake.set(f"{number}.throttle", 0)
    watch.begin("device(0), device(1)")
    watch.end_after_a_second()
    assert watch.metrics == {
        "mean_gpu_power_w": pytest.approx(700.0),
        "max_gpu_memory_mib": 1500.0,
        "mean_gpu_clock_mhz": pytest.approx(1600.0),
        "min_gpu_clock_mhz": 1500.0,
        "max_gpu_temperature_c": 70.0,
    }


def test_extremes_are_those_of_the_whole_time(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.throttle", 0)
    watch.begin()
    fake.set("0.sm_clock", 900)
    fake.set("0.temperature", 88)
    fake.set("0.memory_used", 2000 * MIB)
    for name, value in (
        ("min_gpu_clock_mhz", 900),
        ("max_gpu_temperature_c", 88),
        ("max_gpu_memory_mib", 2000),
    ):
        watch.sees(f"watch.metrics[{name!r}] == {value}")
    fake.set("0.sm_clock", 1980)
    fake.set("0.temperature", 40)
    fake.set("0.memory_used", MIB)
    watch.end()
    found = watch.metrics
    assert found["min_gpu_clock_mhz"] == 900
    assert 900 < found["mean_gpu_clock_mhz"] < 1980
    assert found["max_gpu_temperature_c"] == 88
    assert found["max_gpu_memory_mib"] == 2000


@pytest.mark.parametrize(
    ("unsupported", "missing"),
    [
        ("power", {"mean_gpu_power_w"}),
        ("memory", {"max_gpu_memory_mib"}),
        ("temperature", set()),
        ("sm_clock", set()),
    ],
)
def test_a_sum_is_told_only_where_every_device_tells_its_part(
    fake: FakeNvml, watch: Watched, unsupported: str, missing: set[str]
) -> None:
    for number in (0, 1):
        fake.set(f"{number}.throttle", 0)
    watch.begin("device(0), device(1)")
    watch.end_after_a_second()
    whole = set(watch.metrics)
    assert whole > missing
    fake.set("1.unsupported", unsupported)
    watch.begin("device(0), device(1)")
    watch.end_after_a_second()
    assert set(watch.metrics) == whole - missing


def test_what_no_device_tells_is_no_metric(fake: FakeNvml, watch: Watched) -> None:
    fake.set(
        "0.unsupported", "power,energy,memory,temperature,sm_clock,throttle,utilization,processes"
    )
    watch.begin()
    watch.end()
    assert watch.metrics == {}
    assert watch.energy is None
    assert (watch.disturbances, watch.remarks) == ((), ())


def test_energy_is_that_of_all_counters(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.energy", 1_000_000)
    fake.set("1.energy", 5_000_000)
    watch.begin("device(0), device(1)")
    fake.set("0.energy", 1_250_000)
    fake.set("1.energy", 5_500_500)
    watch.end()
    assert watch.energy == pytest.approx(750.5)


def test_a_counter_that_starts_anew_takes_nothing_away(fake: FakeNvml, watch: Watched) -> None:
    fake.set("0.energy", 1_000_000)
    watch.begin()
    for value in (1_500_000, 100_000):
        fake.set("0.energy", value)
        watch.sees(f"watch._readings[device(0).key][-1].energy == {value / 1000}")
    fake.set("0.energy", 300_000)
    watch.end()
    assert watch.energy == pytest.approx(500 + 200)


def test_energy_is_unknown_where_a_device_does_not_tell(fake: FakeNvml, watch: Watched) -> None:
    fake.set("1.unsupported", "energy")
    watch.begin("device(0), device(1)")
    watch.end()
    assert watch.energy is None
    fake.set("2.mig", 1)
    # An instance has no counter of its own, and that of the card counts what others use.
    watch.begin("device(20, 'MIG')")
    watch.end()
    assert watch.energy is None
    assert watch.remarks == ()
    assert "max_gpu_memory_mib" in watch.metrics


# What cannot be read


def test_a_device_that_is_lost_meanwhile_ends_nothing(fake: FakeNvml, watch: Watched) -> None:
    watch.begin("device(0), device(1)")
    fake.set("0.energy", 2_000_000)
    fake.set("0.error", 15)
    watch.sees("watch.remarks")
    watch.end()
    (said,) = watch.remarks
    assert said.startswith("no telemetry: ")
    assert watch.energy is None
    assert "mean_gpu_power_w" not in watch.metrics
    # The other one was seen.
    assert watch.metrics["max_gpu_temperature_c"] == 35
    assert watch.disturbances == ()


def test_a_disturbance_is_not_forgotten_when_the_device_is_lost(
    fake: FakeNvml, watch: Watched
) -> None:
    fake.set("0.throttle", "0x40")
    watch.begin()
    fake.set("0.error", 15)
    watch.sees("watch.remarks")
    watch.end()
    assert watch.disturbances == ("GPU 0 was throttled (thermal (hardware))",)


def test_a_device_that_was_lost_and_came_back_is_not_measured_in_part(
    fake: FakeNvml, watch: Watched
) -> None:
    fake.set("0.energy", 1_000_000)
    watch.begin()
    fake.set("0.error", 15)
    watch.sees("watch.remarks")
    fake.set("0.energy", 9_000_000)
    fake.unset("0.error")
    watch.end()
    # All that it used until then is not known.
    assert watch.energy is None


@pytest.mark.parametrize("number", [0, 63])
def test_a_device_that_is_not_there_is_said_once(
    fake: FakeNvml, watch: Watched, number: int
) -> None:
    fake.set("0.error", 15)
    watch.begin(f"device({number}), device({number})")
    watch.end()
    assert len(watch.remarks) == 1
    assert watch.metrics == {}
    assert watch.energy is None
    assert watch.disturbances == ()


def test_without_a_driver_there_is_a_remark(fake: FakeNvml, watch: Watched) -> None:
    fake.set("init_error", 9)
    watch.begin()
    watch.end()
    assert watch.remarks[0].startswith("no telemetry: the NVIDIA driver is not loaded")


def test_devices_without_a_uuid_are_not_asked_for() -> None:
    with Telemetry([Device(key="index-0", visible="0")]) as watch:
        pass
    assert (watch.disturbances, watch.remarks, watch.energy) == ((), (), None)
    assert watch.metrics == {}


def test_it_ends_with_what_it_watches(asked: Asked) -> None:
    asked.do(
        """
import threading
before = threading.active_count()
try:
    with Telemetry([device(0)]) as watch:
        during = threading.active_count()
        raise KeyError("boom")
except KeyError:
    pass
after = threading.active_count()
"""
    )
    assert asked.ask("(before, during, after)") == (1, 2, 1)
    assert asked.ask("len(watch._readings[device(0).key]) >= 2")


# Who computed, as the driver samples it


@pytest.fixture
def own(asked: Asked) -> int:
    """The process that watches, which computes, as the driver tells."""
    found: int = asked.ask("os.getpid()")
    return found


def computing(fake: FakeNvml, everyone: Sequence[int], busy: Sequence[int]) -> None:
    fake.set("0.processes", ",".join(f"{pid}:{MIB}" for pid in everyone))
    fake.set("0.busy", ",".join(map(str, busy)) or ",")


def test_who_only_holds_memory_disturbs_nothing_and_is_noted(
    fake: FakeNvml, watch: Watched, own: int
) -> None:
    with sleeping() as idle, sleeping() as busy:
        computing(fake, [own, idle.pid, busy.pid], busy=[own, busy.pid])
        watch.begin()
        watch.end()
        (disturbance,) = watch.disturbances
        assert f"pid {busy.pid}" in disturbance
        assert f"pid {idle.pid}" not in disturbance
        (remark,) = watch.remarks
        assert remark.startswith("GPU 0 was held by others, too, which did not use it: ")
        assert f"pid {idle.pid}" in remark


@pytest.mark.parametrize("period", [200, 1000])
def test_a_short_measurement_waits_for_the_drivers_sample(
    fake: FakeNvml, watch: Watched, own: int, period: int
) -> None:
    # It is over before the driver has sampled anything.
    fake.set("0.sample_period", period)
    with sleeping() as process:
        computing(fake, [own, process.pid], busy=[own, process.pid])
        watch.begin()
        watch.end()
        (disturbance,) = watch.disturbances
        assert f"pid {process.pid}" in disturbance
        computing(fake, [own, process.pid], busy=[own])
        watch.begin()
        watch.end()
        assert watch.disturbances == ()
        assert f"pid {process.pid}" in watch.remarks[0]


def test_who_computed_only_at_the_beginning_is_not_forgotten(
    fake: FakeNvml, asked: Asked, watch: Watched, own: int
) -> None:
    with sleeping() as process:
        computing(fake, [own, process.pid], busy=[own, process.pid])
        watch.begin()
        watch.sees(f"{process.pid} in watch._guests[device(0).key]._computed")
        # The driver tells its last sample only.
        computing(fake, [own, process.pid], busy=[own])
        asked.do("changed = time.time()")
        watch.sees("watch._guests[device(0).key]._computed[os.getpid()] > changed")
        watch.end()
        assert f"pid {process.pid}" in watch.disturbances[0]


@pytest.mark.parametrize("busy", [[], [NOBODY]])
def test_an_answer_that_lacks_ourselves_acquits_nobody(
    fake: FakeNvml, watch: Watched, own: int, busy: list[int]
) -> None:
    # As where the numbers are the host's, or the driver has not sampled us.
    with sleeping() as process:
        computing(fake, [own, process.pid], busy=busy)
        watch.begin()
        watch.end()
        assert f"pid {process.pid}" in watch.disturbances[0]
        assert watch.remarks == ()


def test_a_server_in_a_container_shows_that_the_driver_has_sampled(
    fake: FakeNvml, watch: Watched
) -> None:
    with sleeping() as server, sleeping() as guest:
        computing(fake, [server.pid, guest.pid], busy=[server.pid])
        watch.begin(others=f"lambda process: process.pid == {guest.pid}")
        watch.end()
        assert watch.disturbances == ()
        assert f"pid {guest.pid}" in watch.remarks[0]


def test_nobody_waits_for_a_sample_where_there_are_no_guests(
    fake: FakeNvml, asked: Asked, watch: Watched, own: int
) -> None:
    fake.set("0.sample_period", 100_000_000)
    computing(fake, [own], busy=[own])
    asked.do("from pytest_autotune.gpu import guests; guests._SAMPLED_WITHIN_SECONDS = 600")
    watch.begin()
    watch.end()
    assert watch.disturbances == ()


@pytest.mark.parametrize("missing", [True, False])
def test_where_it_is_not_told_who_computes_everybody_may_have(
    fake: FakeNvml, watch: Watched, *, missing: bool
) -> None:
    with sleeping() as process:
        fake.set("0.processes", f"{process.pid}:{MIB}")
        if missing:
            fake.set("missing", "nvmlDeviceGetProcessUtilization")
        else:
            fake.set("0.unsupported", "busy")
        watch.begin()
        watch.end()
        assert len(watch.disturbances) == 1


# In a container


@pytest.fixture
def contained(asked: Asked, tmp_path: Path) -> Path:
    """A stand-in for the driver's files, in a PID namespace that is not the machine's."""
    asked.do("of_others._MACHINES_NAMESPACE = 1")
    asked.do(f"of_others._DRIVER_FILES = ({str(tmp_path / 'nvidia')!r},)")
    return tmp_path / "nvidia0"


def test_in_a_container_a_number_counts_with_a_file_of_the_driver_open(
    fake: FakeNvml, asked: Asked, contained: Path
) -> None:
    # The host's numbers may be those of other processes here.
    with contained.open("w") as driver, sleeping() as namesake, sleeping(driver) as computing:
        fake.set("0.processes", f"{namesake.pid}:{MIB},{computing.pid}:{MIB}")
        found = asked.ask("strangers(device(0))")
        assert found == (Process(pid=computing.pid, memory=MIB),)
        asked.do("of_others._MACHINES_NAMESPACE = os.stat('/proc/self/ns/pid').st_ino")
        assert len(asked.ask("strangers(device(0))")) == 2


def test_in_a_container_whoever_hides_his_files_counts(
    asked: Asked, contained: Path, tmp_path: Path
) -> None:
    asked.do(f"of_others._PROC = __import__('pathlib').Path({str(tmp_path)!r})")
    asked.do(
        "class Hidden(type(of_others._PROC)):\n"
        "    def iterdir(self):\n"
        "        raise PermissionError(13, 'Permission denied')\n"
        "of_others._PROC = Hidden('/proc')"
    )
    with sleeping() as process:
        assert asked.ask(f"of_others._is_here({process.pid})") is True
    assert asked.ask(f"of_others._is_here({NOBODY})") is False
