"""Other processes on a device during a measurement, and which of them computed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.readings import Process
from pytest_autotune.gpu.strangers import strangers_among
from pytest_autotune.system.processes import family

#: Drivers sample who computes once in a sixth of a second to a second; this is a little longer.
_SAMPLED_WITHIN_SECONDS: Final = 1.2
_PERIOD_SECONDS: Final = 0.05


class Guests:
    """The processes of others on one device, from now on.

    ``is_stranger`` returns whether a process is somebody else's, of those that do not descend from
    ``root`` (this process by default).
    """

    def __init__(self, uuid: str, is_stranger: Callable[[Process], bool], root: int | None) -> None:
        self._uuid = uuid
        self._is_stranger = is_stranger
        self._root = os.getpid() if root is None else root
        self._began = time.time()
        self._known = {os.getpid()}
        self._helpers: set[int] = set()
        self._guests: dict[int, Process] = {}
        #: Who computed, with the time of the driver's last sample that says so.
        self._computed: dict[int, float] = {}
        self._told = True
        self._acquitted: frozenset[int] = frozenset()

    def look(self) -> None:
        """Meet new processes, and ask who computes; the owner of each is found out once."""
        found = nvml.processes(self._uuid)
        new = {process.pid for process in found} - self._known
        if new:
            for process in strangers_among(found, self._root):
                if process.pid not in new:
                    continue
                if self._is_stranger(process):
                    self._guests[process.pid] = process
                else:
                    self._helpers.add(process.pid)
            self._known |= new
        if self._guests and self._told:
            self._ask()

    def _ask(self) -> None:
        # The driver tells its last sample only, so this must be asked again and again.
        found = nvml.busy(self._uuid, self._began)
        self._told = found is not None
        self._computed.update(found or {})

    def settle(self) -> None:
        """Find out which guests only held memory, by the driver's next sample.

        Its samples say something of this measurement only where a process of ours is in one. Until
        then it may have taken none.
        """
        ended, limit = time.time(), time.monotonic() + _SAMPLED_WITHIN_SECONDS
        while (
            self._guests
            and self._told
            and max(self._computed.values(), default=0.0) <= ended
            and time.monotonic() < limit
        ):
            time.sleep(_PERIOD_SECONDS)
            self._ask()
        ours = family(self._root) | self._helpers if self._guests else frozenset()
        if self._told and not ours.isdisjoint(self._computed):
            self._acquitted = frozenset(self._guests.keys() - self._computed.keys())

    @property
    def working(self) -> Mapping[int, Process]:
        """Those that computed, or may have, by their number."""
        return {pid: guest for pid, guest in self._guests.items() if pid not in self._acquitted}

    @property
    def idle(self) -> Mapping[int, Process]:
        """Those that only held memory, by their number."""
        return {pid: guest for pid, guest in self._guests.items() if pid in self._acquitted}
