"""The server that is put under load, and the model that it serves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

_TIMEOUT: Final = 10.0


class Target(Protocol):
    """A server to put under load: :class:`pytest_autotune.serving.server.InferenceServer`."""

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that requests must carry."""

    @property
    def gpus(self) -> int:
        """World size."""

    def check_alive(self) -> None:
        """Raise an error if the server has ended."""


@dataclass(frozen=True)
class Address:
    """A server of which only the address is known."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1

    def check_alive(self) -> None:
        """Do nothing, as this cannot be known of an address."""


def first_model(base_url: str, headers: Mapping[str, str]) -> str | None:
    """Return the first model that the server lists, None where it lists none."""
    request = urllib.request.Request(f"{base_url}/v1/models", headers=dict(headers))  # noqa: S310 - http(s) by the spec's own check
    try:
        # Not through a proxy that the environment names: the server is here.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_TIMEOUT) as response:
            listed = json.load(response)["data"]
        return str(listed[0]["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
