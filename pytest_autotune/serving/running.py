"""What every kind of server can do, whether a container, a process or somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a server's process ended.

    ``status`` is its exit status, negative for a signal; ``out_of_memory`` tells that the
    kernel killed it, or one of its children, for memory.
    """

    status: int
    out_of_memory: bool = False

    def __str__(self) -> str:
        """Say it in words."""
        if self.status < 0:
            return f"killed by signal {-self.status}"
        return f"exit status {self.status}"


class RunningServer(Protocol):
    """A server that was started. Made by a function that takes a launch."""

    @property
    def base_url(self) -> str:
        """Where it answers, without ``/v1``."""

    @property
    def argv(self) -> list[str]:
        """The arguments it was started with; empty where somebody else started it."""

    @property
    def description(self) -> str:
        """What it is, for people: ``container …``, ``process 123``."""

    def exited(self) -> Exit | None:
        """Tell how it ended, None while it runs. Cheap, and known soon after the fact."""

    def stop(self) -> None:
        """End it, with all it started, and release what it held. May be called twice."""
