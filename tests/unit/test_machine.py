"""Whether somebody else used the processors while something was timed on them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_autotune.bench import machine
from pytest_autotune.bench.machine import SPARE_OF_SERVERS, MachineWatch, snapshot

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Machine:
    """A machine of which every figure can be set, in seconds."""

    stat: Path
    processors: int = 2
    wall: float = 100.0
    busy: float = 50.0
    own: float = 5.0
    stolen: float = 0.0
    interrupts: float = 0.0
    files: list[str] = field(default_factory=list)

    def goes_on(
        self, wall: float, *, own: float = 0.0, others: float = 0.0, stolen: float = 0.0
    ) -> None:
        self.wall += wall
        self.own += own
        self.busy += own + others
        self.stolen += stolen
        self.write()

    def write(self) -> None:
        busy, stolen = round(self.busy * TICKS), round(self.stolen * TICKS)
        softirq = round(self.interrupts * TICKS)
        line = f"{busy} 0 0 1000 0 0 {softirq} {stolen} 0 0"
        each = "".join(f"cpu{number} {line}\n" for number in range(self.processors))
        self.stat.write_text(f"cpu  {line}\n{each}intr 1 2 3\nctxt 5\n")


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "stat")
    found.write()
    monkeypatch.setattr(machine, "_STAT", found.stat)
    monkeypatch.setattr(time, "perf_counter", lambda: found.wall)
    monkeypatch.setattr(machine, "cpu_seconds", lambda pid: found.own)
    return found


def test_a_quiet_machine_disturbs_nothing(computer: Machine) -> None:
    with MachineWatch() as watch:
        computer.goes_on(1.0, own=1.0, others=0.05)
    assert watch.disturbances == ()
    assert watch.remarks == ()
    assert watch.energy is None
    assert watch.metrics == {}


def test_others_that_take_the_last_processor_disturb(computer: Machine) -> None:
    with MachineWatch() as watch:
        computer.goes_on(2.0, own=2.0, others=1.8)
    assert watch.disturbances == ("other processes used 0.9 of 2 CPUs",)


def test_others_are_welcome_where_processors_are_idle(computer: Machine) -> None:
    computer.processors = 8
    computer.write()
    with MachineWatch() as watch:
        computer.goes_on(1.0, own=1.0, others=5.0)
    assert watch.disturbances == ()


def test_a_kernel_on_all_processors_is_not_its_own_disturbance(computer: Machine) -> None:
    with MachineWatch() as watch:
        computer.goes_on(1.0, own=2.0, others=0.02)
    assert watch.disturbances == ()


def test_a_server_that_is_no_child_is_not_somebody_else(computer: Machine) -> None:
    seconds = iter([7.0, 8.8])
    with MachineWatch(served=lambda: next(seconds)) as watch:
        computer.goes_on(1.0, own=0.2, others=1.8)
    assert watch.disturbances == ()
    seconds = iter([7.0, 7.2])
    with MachineWatch(served=lambda: next(seconds)) as watch:
        computer.goes_on(1.0, own=0.2, others=1.7)
    assert watch.disturbances == ("other processes used 1.5 of 2 CPUs",)


def test_where_a_server_is_not_found_nobody_can_be_told_from_it(computer: Machine) -> None:
    with MachineWatch(served=lambda: None) as watch:
        computer.goes_on(1.0, own=0.2, others=1.8)
    assert watch.disturbances == ()
    with MachineWatch(served=lambda: None) as watch:
        computer.goes_on(1.0, own=0.2, others=1.4, stolen=0.4)
    assert watch.disturbances == ("the host of this machine withheld 0.40 of 2 CPUs",)


@pytest.mark.parametrize(
    ("client", "served", "said"),
    [
        (0.1, 0.05, ()),
        (0.6, 0.2, ()),
        (0.2, 0.15, ("other processes used 1.5 of 2 CPUs",)),
    ],
    ids=["idle", "less than its client", "working"],
)
def test_behind_a_forwarder_nobody_can_be_told_from_the_server(
    computer: Machine, client: float, served: float, said: tuple[str, ...]
) -> None:
    seconds = iter([0.02, 0.02 + served])
    with MachineWatch(served=lambda: next(seconds), hands_on=True) as watch:
        computer.goes_on(1.0, own=client, others=1.5 + served, stolen=0.4)
    assert watch.disturbances == (*said, "the host of this machine withheld 0.40 of 2 CPUs")


def test_a_server_that_is_a_child_or_elsewhere_is_no_forwarder(computer: Machine) -> None:
    with MachineWatch(hands_on=True) as watch:
        computer.goes_on(1.0, own=0.2, others=1.7)
    assert watch.disturbances == ("other processes used 1.7 of 2 CPUs",)


def test_of_a_server_elsewhere_it_is_said_whose_processors_they_are(computer: Machine) -> None:
    with MachineWatch(role=", which sends the load") as watch:
        computer.goes_on(1.0, own=0.2, others=1.7)
    assert watch.disturbances == ("other processes used 1.7 of 2 CPUs, which sends the load",)


def test_a_server_needs_a_processor_that_is_free(computer: Machine) -> None:
    with MachineWatch(spare=SPARE_OF_SERVERS) as watch:
        computer.goes_on(1.0, own=0.3, others=1.0)
    assert watch.disturbances == ("other processes used 1.0 of 2 CPUs",)
    with MachineWatch(spare=SPARE_OF_SERVERS) as watch:
        computer.goes_on(1.0, own=0.3, others=0.6)
    assert watch.disturbances == ()


def test_interrupts_are_nobodys_work(computer: Machine) -> None:
    with MachineWatch() as watch:
        computer.interrupts += 0.9
        computer.goes_on(1.0, own=1.0, others=0.1)
    assert watch.disturbances == ()
    with MachineWatch() as watch:
        computer.interrupts += 0.2
        computer.goes_on(1.0, own=1.0, others=0.8)
    assert watch.disturbances == ("other processes used 0.8 of 2 CPUs",)


def test_others_that_were_invited_are_noted_only(computer: Machine) -> None:
    with MachineWatch(shared=True) as watch:
        computer.goes_on(1.0, own=1.0, others=1.0)
    assert watch.disturbances == ()
    assert watch.remarks == ("other processes used 1.0 of 2 CPUs",)


def test_time_that_the_host_withholds_is_seen(computer: Machine) -> None:
    with MachineWatch() as watch:
        computer.goes_on(1.0, own=1.0, stolen=0.2)
    assert watch.disturbances == ("the host of this machine withheld 0.20 of 2 CPUs",)


@pytest.mark.parametrize(
    ("wall", "others", "stolen"),
    [(0.05, 0.05, 0.05), (0.15, 0.0, 0.02)],
    ids=["too short", "a tick or two"],
)
def test_what_the_kernel_cannot_count_says_nothing(
    computer: Machine, wall: float, others: float, stolen: float
) -> None:
    with MachineWatch() as watch:
        computer.goes_on(wall, own=wall, others=others, stolen=stolen)
    assert watch.disturbances == ()


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "not a number in sight\n"])
def test_a_system_that_does_not_tell_disturbs_nothing(computer: Machine, text: str) -> None:
    with MachineWatch() as watch:
        computer.goes_on(1.0, own=1.0, others=1.0)
        computer.stat.write_text(text)
    assert watch.disturbances == ()
    computer.stat.unlink()
    assert snapshot() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_the_real_figures_go_on() -> None:
    before = snapshot()
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass
    after = snapshot()
    assert before is not None
    assert after is not None
    assert after.processors >= 1
    # All processors together have done at least what this process has, but for rounding.
    assert after.busy - before.busy >= after.own - before.own - 0.05
    assert after.own - before.own > 0.02


def test_what_children_used_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds(pid: int) -> float:
        asked.append(pid)
        return 12.5

    monkeypatch.setattr(machine, "cpu_seconds", seconds)
    found = snapshot()
    assert found is not None
    assert found.own == 12.5
    # Of this process and all that descend from it.
    assert asked == [os.getpid()]


def test_others_on_the_processors_are_no_severe_disturbance() -> None:
    assert MachineWatch().severe is False
