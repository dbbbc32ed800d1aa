"""A running server, whether a container, a process or somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pytest_autotune.serving.launch import Launch
from pytest_autotune.system.listeners import Listening, Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """The end of a server's process.

    ``status`` is its exit status, negative for a signal. ``out_of_memory`` is true if the kernel
    killed it, or one of its children, for memory.
    """

    status: int
    out_of_memory: bool = False

    def __str__(self) -> str:
        """Describe it in words."""
        if self.status < 0:
            return f"killed by signal {-self.status}"
        return f"exit status {self.status}"


class RunningServer(Placed, Protocol):
    """A server that was started. Made by a function that takes a launch."""

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""

    @property
    def argv(self) -> list[str]:
        """The arguments it was started with; empty where somebody else started it."""

    @property
    def description(self) -> str:
        """A description for people: ``container …``, ``process 123``."""

    def exited(self) -> Exit | None:
        """Return the server's end, None while it runs. It is cheap, and soon up to date."""

    def stop(self) -> None:
        """End it with all its children, and release its resources. May be called twice."""


class UrlServer(Listening):
    """An endpoint that is already up. It is neither started nor stopped here."""

    def __init__(self, launch: Launch) -> None:
        self.base_url = str(launch.spec.url).rstrip("/").removesuffix("/v1")
        self.description = self.base_url
        self.argv: list[str] = []

    def exited(self) -> Exit | None:
        """Return None, as only a request shows whether it runs."""
        return None

    def stop(self) -> None:
        """Leave it running."""
