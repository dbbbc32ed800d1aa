"""What is seen of devices or the machine during a measurement, whoever looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Watched(Protocol):
    """The observation of the devices during a measurement."""

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe the measurement, in words."""

    @property
    def severe(self) -> bool:
        """Return whether a disturbance may have slowed everything down by any factor."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks that do not make the measurement unreliable."""

    @property
    def energy(self) -> float | None:
        """Joules used, None if no device tells."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the devices, under flat names."""


#: Watches devices in a ``with`` block; the observation is complete at its end.
Watch = Callable[[], AbstractContextManager[Watched]]
