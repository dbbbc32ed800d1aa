"""Redirects, which are followed nowhere, not even to the same origin.

A request may carry an API key, which is for the host that the spec names. A load test goes where
the spec says, and one request more would be part of every time that it measures.
"""

from __future__ import annotations

from typing import Final

from pytest_autotune.text.printable import printable

_MAX_LOCATION: Final = 200
_REDIRECTS: Final = range(300, 400)


def redirected(status: int, location: str) -> str:
    """Describe a redirect, and what to do about it; return nothing for another answer."""
    if status not in _REDIRECTS or not location:
        return ""
    where = printable(location)[:_MAX_LOCATION]
    return f"a redirect to {where}, which is not followed; give the server's final address"
