"""A promise about skipping: what CI requires is never skipped."""

from __future__ import annotations

import os

import pytest


def unavailable(engine: str, reason: str) -> None:
    """Skip a test that needs ``engine``, or fail it where ``AUTOTUNE_REQUIRE`` names the engine."""
    if engine in os.environ.get("AUTOTUNE_REQUIRE", "").split(","):
        pytest.fail(f"AUTOTUNE_REQUIRE asks for {engine}, but {reason}", pytrace=False)
    pytest.skip(reason)
