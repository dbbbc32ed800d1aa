"""Mistakes in tests that pytest itself reports, or passes over, without naming the test."""

from __future__ import annotations

import inspect
from typing import Final

import pytest

#: Part of the message of a failure, before pytest 8.4 of a skip.
_NOT_RUN: Final = "async def function"


def not_run(item: pytest.Item, error: BaseException | None) -> str:
    """Return why pytest did not run a test that is a coroutine, empty where that is not so."""
    function = getattr(item, "function", None)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if not is_async or _NOT_RUN not in str(error):
        return ""
    name = getattr(item, "originalname", None) or item.name
    return (
        f"{name} is an async function, which pytest runs only with a plugin such as anyio or "
        "pytest-asyncio"
    )
