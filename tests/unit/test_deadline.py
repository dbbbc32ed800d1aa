"""A time limit interrupts what runs too long and leaves no trace behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_autotune.errors import TrialTimeout
from pytest_autotune.plugin.deadline import deadline

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")


@pytest.fixture(autouse=True)
def clean_timer() -> Iterator[None]:
    """No timer and the usual handler, before and after."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    left_over = signal.setitimer(signal.ITIMER_REAL, 0)
    assert left_over == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def soon(seconds: float = 0.05) -> float:
    return time.monotonic() + seconds


def test_without_a_limit_nothing_is_touched() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with deadline(None, "late"):
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_runs_too_long_is_interrupted() -> None:
    started = time.monotonic()
    with (
        pytest.raises(TrialTimeout, match="trial 3 ran too long"),
        deadline(soon(), "trial 3 ran too long"),
    ):
        time.sleep(10)
    assert 0.04 < time.monotonic() - started < 5


def test_a_busy_loop_is_interrupted_too() -> None:
    def spin() -> None:
        while True:
            pass

    with pytest.raises(TrialTimeout), deadline(soon(), "late"):
        spin()


def test_what_is_quick_enough_goes_on_undisturbed() -> None:
    with deadline(soon(0.05), "late"):
        result = 1
    time.sleep(0.08)
    assert result == 1


def test_a_limit_in_the_past_does_not_even_begin() -> None:
    began = False
    with pytest.raises(TrialTimeout), deadline(time.monotonic() - 1, "late"):
        began = True
    assert not began


def test_an_error_in_the_block_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), deadline(soon(5), "late"):
        _ = 1 / 0


def test_a_timer_that_was_set_before_is_put_back() -> None:
    fired: list[float] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with deadline(soon(5), "late"):
            time.sleep(0.05)
        remaining, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < remaining < 0.12
        assert interval == 0
        while not fired and time.monotonic() < started + 5:
            time.sleep(0.01)
        assert fired[0] - started > 0.12
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_timer_that_should_have_gone_off_meanwhile_does_so_at_once() -> None:
    fired: list[bool] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with deadline(soon(5), "late"):
            time.sleep(0.05)
            assert not fired
        time.sleep(0.05)
        assert fired
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_of_nested_limits_the_inner_one_counts_first_and_the_outer_one_still_holds() -> None:
    def inner() -> None:
        with deadline(soon(0.03), "inner"):
            time.sleep(10)

    def outer() -> None:
        with deadline(soon(0.15), "outer"):
            with pytest.raises(TrialTimeout, match="inner"):
                inner()
            time.sleep(10)

    with pytest.raises(TrialTimeout, match="outer"):
        outer()


def test_in_another_thread_the_limit_is_checked_at_the_end() -> None:
    outcome: list[str] = []

    def work(pause: float) -> None:
        try:
            with deadline(soon(0.05), "late"):
                time.sleep(pause)
            outcome.append("in time")
        except TrialTimeout:
            outcome.append("late")

    for pause in (0.0, 0.1):
        thread = threading.Thread(target=work, args=(pause,))
        thread.start()
        thread.join()
    assert outcome == ["in time", "late"]
