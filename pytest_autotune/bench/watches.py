"""Several watches on one measurement, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from pytest_autotune.bench.watched import Watched


class Watches:
    """Watches a ``with`` block in several ways; what any of them sees counts."""

    def __init__(self, watches: Sequence[AbstractContextManager[Watched]]) -> None:
        self._watches = watches
        self._seen: list[Watched] = []
        self._stack = ExitStack()

    def __enter__(self) -> Watches:  # noqa: PYI034 - Python 3.10 has no Self
        """Begin all of them."""
        self._seen = [self._stack.enter_context(watch) for watch in self._watches]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """End all of them."""
        return self._stack.__exit__(kind, error, traceback)

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe the measurement."""
        return tuple(text for seen in self._seen for text in seen.disturbances)

    @property
    def severe(self) -> bool:
        """Return whether a disturbance may have slowed everything down by any factor."""
        return any(seen.severe for seen in self._seen if seen.disturbances)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks that do not make the measurement unreliable."""
        return tuple(text for seen in self._seen for text in seen.remarks)

    @property
    def energy(self) -> float | None:
        """Joules used, None if no device tells."""
        return next((seen.energy for seen in self._seen if seen.energy is not None), None)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the devices, under flat names."""
        return {name: value for seen in self._seen for name, value in seen.metrics.items()}
