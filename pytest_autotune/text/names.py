"""File names for what people name."""

from __future__ import annotations

import hashlib
import json
import re


def slug(label: str) -> str:
    """Return a file name for ``label``: readable, and unique by a short digest."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower()[-60:]
    return f"{readable}-{hashlib.sha256(json.dumps(label).encode()).hexdigest()[:8]}"
