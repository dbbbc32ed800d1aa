"""A server that somebody else runs."""

from __future__ import annotations

from pytest_autotune.serving.launch import Launch
from pytest_autotune.serving.running import Exit


class UrlServer:
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
