"""Ask an OpenAI-compatible endpoint what it serves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

_TIMEOUT: Final = 10.0


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
