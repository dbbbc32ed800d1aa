"""Seal what processes of one run hand each other in files, so that a killed run leaves no secret.

The key goes to them by other ways than files, and is gone with them.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 16


def new_key() -> bytes:
    """Return a key for one run."""
    return os.urandom(_KEY_BYTES)


def sealed(content: bytes, key: bytes) -> bytes:
    """Return ``content`` as only :func:`unsealed` with the same key can read it."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _mixed(content, key + nonce)


def unsealed(content: bytes, key: bytes) -> bytes:
    """Return what :func:`sealed` was given."""
    nonce, rest = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
    return _mixed(rest, key + nonce)


def _mixed(content: bytes, seed: bytes) -> bytes:
    """Return ``content`` combined with a stream of bytes that never occurs twice."""
    stream = hashlib.shake_256(seed).digest(len(content))
    mixed = int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(content), "big")
