"""Ctrl-C at any line of what stores a trial: nothing is torn, lost or counted twice."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final

import optuna
import pytest
from builders import ended
from filelock import FileLock

import pytest_autotune
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.serving.keeper import ServerKeeper
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.study.journal import open_journal
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import SlotRequest, Stop
from pytest_autotune.study.searched import SearchedStudy
from pytest_autotune.study.settings import Settings
from pytest_autotune.system.interrupts import CleanUp, uninterrupted
from pytest_autotune.system.locks import FileCoordinator
from pytest_autotune.system.masking import Masker

SPEC: Final = {
    "parameters": {"a": [1, 2, 3]},
    "optimization": {"objective": "minimize:cost", "strategy": "random"},
}
SLOT: Final = SlotRequest(id="trial-000")
WATCHED: Final = (
    str(Path(pytest_autotune.__file__).parent),
    str(Path(optuna.__file__).parent / "storages"),
)


def interrupt_at(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` with Ctrl-C at its ``step``-th line; return whether it had so many."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        if event == "line":
            seen += 1
            if seen == step:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        action()
    except KeyboardInterrupt:
        assert seen >= step
    finally:
        sys.settrace(before)
    return seen >= step


def open_study(folder: Path, session: str) -> SearchedStudy:
    plan = Plan.make("test_x.py", load_inline("x", SPEC, "test"), Settings())
    return SearchedStudy(plan, folder, session=session, started=time.monotonic())


def measure(study: SearchedStudy) -> None:
    """Run the next trial as the plugin does, which asks for the records on the way."""
    claim = study.claim(SLOT)
    assert isinstance(claim, TrialRecord)
    study.records()
    study.finish(ended(claim, study.plan, metrics={"cost": 1.0}))


def run_interrupted(folder: Path, step: int) -> bool:
    """Interrupt a session of two trials, finish the study in another, and check what is stored."""
    study = open_study(folder, "interrupted")
    measure(study)
    there = interrupt_at(step, lambda: measure(study))
    stored = [record for record in study.records() if record.finished]
    study.leave()
    study.close()
    later = open_study(folder, "later")
    while not isinstance(claim := later.claim(SLOT), Stop):
        assert isinstance(claim, TrialRecord)
        later.finish(ended(claim, later.plan, metrics={"cost": 2.0}))
    records = later.records()
    later.close()
    assert [record.number for record in records] == [0, 1, 2]
    assert len({record.key for record in records}) == 3
    assert [record.owner.attempt for record in records] == [1, 1, 1]
    assert records[: len(stored)] == stored
    return there


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_line_leaves_a_trial_finished_or_to_be_run_again(
    tmp_path: Path, stride: int
) -> None:
    for step in itertools.count(1, stride):
        if not run_interrupted(tmp_path / str(step), step):
            break
    assert step > 200


def test_an_end_that_was_stored_is_not_given_back(tmp_path: Path) -> None:
    study = open_study(tmp_path, "one")
    claim = study.claim(SLOT)
    assert isinstance(claim, TrialRecord)
    finished = ended(claim, study.plan, metrics={"cost": 1.0})
    study.finish(finished)
    study.give_back(claim)
    assert study.records() == [finished]
    study.close()


def test_an_interrupt_takes_effect_at_the_end_of_a_section() -> None:
    done = []

    def section() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        section()
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_repeated_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_autotune.system.interrupts._HOLD_SECONDS", -1.0)

    def section() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the section hangs")

    with pytest.raises(KeyboardInterrupt):
        section()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_time_limit_takes_effect_at_the_end_of_a_section() -> None:
    def expire(*_: object) -> None:
        raise TimeoutError

    done = []

    def section() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGALRM)
            done.append(True)

    before = signal.signal(signal.SIGALRM, expire)
    try:
        with pytest.raises(TimeoutError):
            section()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done


def test_a_lock_is_free_after_an_interrupt(tmp_path: Path) -> None:
    coordinator = FileCoordinator(tmp_path)
    with pytest.raises(KeyboardInterrupt), coordinator.mutex():
        signal.raise_signal(signal.SIGINT)
    with FileLock(tmp_path / "study.lock", timeout=0):
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs SIGALRM")
def test_ctrl_c_wins_over_a_time_limit_in_the_same_section() -> None:
    def expire(*_: object) -> None:
        raise TimeoutError

    def section(numbers: Sequence[int]) -> None:
        with uninterrupted():
            for number in numbers:
                signal.raise_signal(number)

    before = signal.signal(signal.SIGALRM, expire)
    try:
        for numbers in itertools.permutations((signal.SIGINT, signal.SIGALRM)):
            with pytest.raises(KeyboardInterrupt):
                section(numbers)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize("opening", [False, True], ids=["waiting", "opening"])
def test_ctrl_c_and_time_limits_are_heeded_while_another_process_has_the_study(
    tmp_path: Path, *, opening: bool
) -> None:
    journal = open_journal(tmp_path, "study")

    def wait() -> None:
        if opening:
            open_journal(tmp_path, "study")
        else:
            with journal.coordinator.mutex():
                pytest.fail("another process has the study")

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, interrupt)
    holder = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    path = str(tmp_path / "study" / "study.lock")
    with subprocess.Popen(
        [sys.executable, "-c", holder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline().strip() == b"held"
        # If it is not heeded, the study is free after some seconds.
        release = threading.Timer(10.0, other.kill)
        release.start()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                wait()
            assert other.poll() is None
        finally:
            release.cancel()
            signal.signal(signal.SIGALRM, before)
            other.stdin.close()
    with journal.coordinator.mutex():
        pass
    journal.close()


def test_a_clean_up_is_not_disturbed_and_knows_of_it() -> None:
    clean_up = CleanUp()
    clean_up.begin()
    signal.raise_signal(signal.SIGINT)
    assert clean_up.interrupted
    with pytest.raises(KeyboardInterrupt), clean_up.suspended():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    clean_up.end(process_ends=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_clean_up_that_hangs_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_autotune.system.interrupts._CLEAN_UP_SECONDS", -1.0)
    clean_up = CleanUp()
    clean_up.begin()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        clean_up = CleanUp()
        clean_up.begin()
        signal.raise_signal(signal.SIGINT)
        clean_up.end(process_ends=False)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] * 2


def test_a_handled_interrupt_of_compiled_text_does_not_kill_the_process(tmp_path: Path) -> None:
    status = []
    for then in ("pass", "forget_interrupt()"):
        (tmp_path / "program.py").write_text(
            "from pytest_autotune.system.interrupts import forget_interrupt\n"
            "try:\n    exec('raise KeyboardInterrupt')\n"
            f"except KeyboardInterrupt:\n    {then}\n"
            "raise SystemExit(2)\n"
        )
        found = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, check=False)
        status.append(found.returncode)
    assert status == [-signal.SIGINT, 2]


@pytest.mark.parametrize("how", ["released", "forgotten"])
def test_a_server_whose_end_was_interrupted_is_ended_with_the_run(tmp_path: Path, how: str) -> None:
    ends: list[bool] = []

    class Server:
        launch = SimpleNamespace(spec=SimpleNamespace(reuse=how == "forgotten"))

        def exited(self) -> None:
            return None

        def stop(self) -> None:
            ends.append(True)
            if len(ends) == 1:
                raise KeyboardInterrupt

    keeper = ServerKeeper(tmp_path, tmp_path, Masker())
    server: Any = Server()
    keeper._current = server
    if how == "forgotten":
        keeper.release(server)
    with pytest.raises(KeyboardInterrupt):
        keeper.forget() if how == "forgotten" else keeper.release(server)
    keeper.close()
    assert len(ends) == 2
