"""Ctrl-C: sections that it must not tear apart, and a clean-up that it does not disturb."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: Signals whose handlers raise an exception: Ctrl-C, and the time limit of a test. The first is
#: raised last, so that nothing takes its place.
_RAISING: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGALRM") if hasattr(signal, name)
)
#: A signal that is repeated after so many seconds gets through: something hangs.
_HOLD_SECONDS: Final = 2.0
#: Cleaning up may take this long before Ctrl-C ends it (seconds).
_CLEAN_UP_SECONDS: Final = 20.0
#: Python may take this long to end (seconds).
_LAST_SECONDS: Final = 2.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and time limits during the block; they take effect at its end."""
    if not _in_main_thread():
        yield
    elif len(_RAISING) == 1:
        with _holding(_RAISING[0]):
            yield
    else:
        with _holding(_RAISING[0]), _holding(_RAISING[1]):
            yield


@contextmanager
def _holding(number: int) -> Iterator[None]:
    previous = signal.getsignal(number)
    if not callable(previous):
        yield
        return
    held: list[float] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(time.monotonic())
        if held[-1] - held[0] > _HOLD_SECONDS:
            previous(number, frame)

    try:
        signal.signal(number, hold)
        yield
    finally:
        signal.signal(number, previous)
        if held:
            signal.raise_signal(number)


def defer_in_children() -> None:
    """Let Ctrl-C wait in processes started from here on, and for this thread, until it is heeded.

    A Python that is still loading modules would print a traceback.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def heed() -> None:
    """Heed Ctrl-C from here on, also where it came since :func:`defer_in_children`."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class CleanUp:
    """The end of a run, which Ctrl-C does not disturb.

    A handler that somebody else installed stays in place.
    """

    def __init__(self) -> None:
        self._until: float | None = None
        #: True once Ctrl-C was pressed during it.
        self.interrupted = False

    def begin(self) -> None:
        """Ignore Ctrl-C from here on."""
        handler = signal.getsignal(signal.SIGINT)
        ours = isinstance(getattr(handler, "__self__", None), CleanUp)
        if (
            self._until is None
            and _in_main_thread()
            and (ours or handler is signal.default_int_handler)
        ):
            self._until = time.monotonic() + _CLEAN_UP_SECONDS
            signal.signal(signal.SIGINT, self._note)

    def end(self, *, process_ends: bool) -> None:
        """Heed Ctrl-C again, unless the process is about to end anyway."""
        if self._until is None:
            return
        if process_ends:
            # Python would print a traceback, or die by the signal in its last moments.
            self._until = time.monotonic() + _LAST_SECONDS
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._until = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Heed Ctrl-C during the block."""
        until = self._until
        self.end(process_ends=False)
        try:
            yield
        finally:
            if until is not None:
                self.begin()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        if self._until is None or time.monotonic() > self._until:
            # Something hangs.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.default_int_handler(number, frame)


def forget_interrupt() -> None:
    """Let an interrupt that was handled not end the process by a signal.

    Python remembers an interrupt of code that was compiled from a string, as that of dataclasses
    is, and ends the process by SIGINT, even if it was caught; until other such code is run.
    """
    exec("")  # noqa: S102 - a constant


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
