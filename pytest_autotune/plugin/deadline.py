"""A time limit on code that runs in the main thread."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from pytest_autotune.errors import TrialTimeout

_AGAIN_SECONDS: Final = 2.0


@contextmanager
def deadline(at: float | None, message: str) -> Iterator[None]:
    """Raise :class:`TrialTimeout` in the block when the monotonic clock passes ``at``.

    The main thread is interrupted by ``SIGALRM``. A timer already set is put back afterwards.
    Where that is impossible (another thread, Windows) the limit is checked at the end only.
    """
    if at is None:
        yield
        return
    left = at - time.monotonic()
    if left <= 0:
        raise TrialTimeout(message)
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        if time.monotonic() > at:
            raise TrialTimeout(message)
        return

    def expire(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TrialTimeout(message)

    previous = signal.signal(signal.SIGALRM, expire)
    began = time.monotonic()
    outer, interval = signal.getitimer(signal.ITIMER_REAL)
    try:
        # Repeated, because Python drops what is raised inside a destructor or a callback of
        # the garbage collector. More than nothing, as zero would mean never.
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-4), _AGAIN_SECONDS)
        yield
    finally:
        # Ours must be off before the other handler is back, and that before its timer is.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if outer:
            remaining = max(outer - (time.monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, remaining, interval)
