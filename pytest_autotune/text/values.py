"""JSON values, parameters and labels as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pytest_autotune.text.printable import printable


def canonical(value: Any) -> str:
    """Return a text that is equal for equal JSON values and only for those.

    Unlike ``==`` it tells ``1`` from ``True`` and ``1.0``, and works for lists and mappings.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def whole(value: float) -> int:
    """Return a whole number of a JSON document, where 8.0 is one, too."""
    return int(value)


def label(value: Any) -> str:
    """Return a short text for a value in a test id or a message."""
    return value if isinstance(value, str) else canonical(value)


def parameters(point: Mapping[str, Any]) -> str:
    """Return ``name=value`` pairs, in order."""
    return (
        " ".join(f"{name}={printable(label(value))}" for name, value in point.items())
        or "(no parameters)"
    )


def slug(text: str) -> str:
    """Return a file name for ``text``: readable, and unique by a short digest."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[-60:]
    return f"{readable}-{hashlib.sha256(json.dumps(text).encode()).hexdigest()[:8]}"
