"""A watch on the machine's other work while something is timed on its processors."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_autotune.system.processes import cpu_seconds

_STAT: Final = Path("/proc/stat")
#: Others matter once they use this much of a processor and leave no more than that idle.
_MUCH: Final = 0.5
_LITTLE_IDLE: Final = 0.25
#: Threads of a server and its client wake up at the same time. So they need one that is free, while
#: a processor that is idle half of the time is not.
SPARE_OF_SERVERS: Final = 1.0
#: The share of its time that a virtual machine can be without processors unnoticed.
_STOLEN: Final = 0.02
#: More than a tick or two, which may be chance (seconds).
_LEAST_STOLEN: Final = 0.03
#: Who answers requests uses at least this much of a processor, and this share of what their client
#: does. Who uses less hands them on.
_LEAST_SERVED: Final = 0.1
_LEAST_SHARE: Final = 0.5
#: The kernel counts in steps of 10 ms: over less than this they say nothing (seconds).
_LEAST_SECONDS: Final = 0.09


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Seconds since some moment: of the clock, and of all processors together.

    ``own`` is the time of this process, its children and whatever else takes part, NaN where that
    is unknown. ``served`` is the part of it that is no child's. ``interrupts`` are part of
    ``busy``. ``stolen`` is the time that the host of a virtual machine gave to others.
    """

    wall: float
    busy: float
    interrupts: float
    own: float
    served: float
    stolen: float
    processors: int


def snapshot(served: float | None = 0.0) -> Snapshot | None:
    """Return the processors' use of their time so far, None where the system does not tell.

    ``served`` is the time of processes that count as this one's own, None where it is unknown.
    """
    try:
        total, *rest = _STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, total.split()[1:9])
    except (AttributeError, OSError, ValueError):
        return None
    others = math.nan if served is None else served
    return Snapshot(
        wall=time.perf_counter(),
        busy=(user + nice + system + irq + softirq) / tick,
        interrupts=(irq + softirq) / tick,
        own=cpu_seconds(os.getpid()) + others,
        served=others,
        stolen=stolen / tick,
        processors=sum(line.startswith("cpu") for line in rest),
    )


class MachineWatch:
    """Compares the processors' time before and after a ``with`` block.

    With ``shared``, other work is expected, such as other workers, and is only noted. ``served``
    returns the time of processes that take part and do not descend from this one, such as those
    of a container; None where it is unknown, so that nobody's work can be told from theirs.
    Nor can it where these ``hands_on`` their work, as it seems where they used almost no time.
    Others disturb where they leave no more than ``spare`` processors idle. ``role`` says what this
    machine does where that is not all: ``, which sends the load``.
    """

    energy: Final = None
    #: Others get their turn of a processor, no more: calls take twice as long, not ten times.
    severe: Final = False

    def __init__(
        self,
        *,
        shared: bool = False,
        served: Callable[[], float | None] = lambda: 0.0,
        hands_on: bool = False,
        role: str = "",
        spare: float = _LITTLE_IDLE,
    ) -> None:
        self._shared = shared
        self._served = served
        self._hands_on = hands_on
        self._role = role
        self._spare = spare
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None

    def __enter__(self) -> MachineWatch:  # noqa: PYI034 - Python 3.10 has no Self
        """Begin."""
        self._before = snapshot(self._served())
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._after = snapshot(self._served())

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe the measurement."""
        return () if self._shared else self._found()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks that do not make the measurement unreliable."""
        return self._found() if self._shared else ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """Nothing: no device was read."""
        return {}

    def _found(self) -> tuple[str, ...]:
        before, after = self._before, self._after
        if before is None or after is None or after.wall - before.wall < _LEAST_SECONDS:
            return ()
        wall = after.wall - before.wall
        busy = (after.busy - before.busy) / wall
        # Of others nothing is known where it is not known what is ours: no comparison holds.
        # Interrupts are nobody's, and at least as likely our own: a server's network traffic.
        taken = after.own - before.own + after.interrupts - before.interrupts
        others = busy - taken / wall
        stolen = (after.stolen - before.stolen) / wall
        processors = after.processors
        if self._hands_on and _is_forwarded(before, after):
            others = math.nan
        found = []
        if others >= _MUCH and processors - busy <= self._spare:
            found.append(f"other processes used {others:.1f} of {processors} CPUs{self._role}")
        if stolen >= _STOLEN * processors and stolen * wall >= _LEAST_STOLEN:
            found.append(
                f"the host of this machine withheld {stolen:.2f} of {processors} CPUs{self._role}"
            )
        return tuple(found)


def _is_forwarded(before: Snapshot, after: Snapshot) -> bool:
    """Return whether those who take part, if any, did too little for the work to be theirs."""
    served = after.served - before.served
    client = after.own - before.own - served
    least = max(_LEAST_SERVED * (after.wall - before.wall), _LEAST_SHARE * client)
    return after.served > 0 and served < least
