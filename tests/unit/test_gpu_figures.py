"""Energy, power and clocks, from readings of a counter that moves in steps."""

from __future__ import annotations

import pytest

from pytest_autotune.gpu import figures
from pytest_autotune.gpu.readings import Reading


def counted(watts: float, milliseconds: int, *, ahead: int = 0) -> list[Reading]:
    """Return what looks every 50 ms see of a counter with steps of 100 ms.

    Its first step is so many milliseconds earlier than 100 ms after the first look.
    """
    return [
        Reading(at=100 + now / 1000, energy=1e6 + watts * ((now + ahead) // 100) / 10)
        for now in range(0, milliseconds + 1, 50)
    ]


@pytest.mark.parametrize("ahead", [0, 10, 30, 50, 60, 90])
def test_energy_is_in_proportion_between_the_steps_of_the_counter(ahead: int) -> None:
    # The plain difference may hold 31 or 32 steps of the 31.5.
    readings = counted(500.0, 3150, ahead=ahead)
    assert figures.energy(readings) == pytest.approx(1575)
    assert figures.mean_power(readings) == pytest.approx(500)


def test_energy_of_a_second_is_not_off_by_a_step() -> None:
    readings = counted(700.0, 1150)
    plain = (readings[-1].energy or 0) - (readings[0].energy or 0)
    assert plain == pytest.approx(770)
    assert figures.energy(readings) == pytest.approx(805)


def test_energy_of_a_moment_is_the_counters_plain_difference() -> None:
    readings = counted(500.0, 500)
    assert figures.energy(readings) == pytest.approx(250)
    assert figures.mean_power(readings) is None


@pytest.mark.parametrize("length", [0.1, 0.95])
def test_power_of_less_than_a_second_is_not_told(length: float) -> None:
    readings = [Reading(at=k * 0.05, power=300.0) for k in range(round(length / 0.05) + 1)]
    assert figures.mean_power(readings) is None
    assert figures.mean_power([]) is None


def test_without_a_counter_power_is_the_mean_of_what_was_read() -> None:
    readings = [Reading(at=k * 0.5, power=power) for k, power in enumerate((300.0, 500.0, 400.0))]
    assert figures.mean_power(readings) == pytest.approx(400)
    assert figures.energy(readings) is None


@pytest.mark.parametrize("moved", [1, 2])
def test_a_counter_that_hardly_moved_tells_no_power(moved: int) -> None:
    readings = [
        Reading(at=k * 0.05, energy=100.0 * max(0, k - 40 + moved), power=123.0) for k in range(41)
    ]
    assert figures.mean_power(readings) == 123.0
    assert figures.energy(readings) == 100.0 * moved


def test_a_counter_that_starts_anew_tells_no_power() -> None:
    readings = [Reading(at=float(k), energy=energy) for k, energy in enumerate((50, 60, 5, 25))]
    assert figures.mean_power(readings) is None
    assert figures.energy(readings) == 30


def test_clocks_are_those_while_it_worked() -> None:
    readings = [
        Reading(sm_clock=345, idle=True),
        Reading(sm_clock=1980),
        Reading(sm_clock=None),
        Reading(sm_clock=1755, throttle=frozenset({"power cap"})),
        Reading(sm_clock=210, idle=True),
    ]
    assert figures.clocks(readings) == [1980, 1755]
    assert figures.clocks(readings[:1]) == []
