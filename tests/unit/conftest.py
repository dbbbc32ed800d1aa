"""Fixtures that several unit tests use: a scripted server and a fake NVML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, need_library
from scripted import Scripted, serve


@pytest.fixture(scope="module")
def shared() -> Iterator[Scripted]:
    """One server for all tests of a module that need no flags of their own."""
    with serve("--ttft", "0.01") as server:
        yield server


@pytest.fixture
def server(shared: Scripted) -> Scripted:
    """The module's server, without memory of earlier tests."""
    shared.reset()
    return shared


@pytest.fixture
def start() -> Iterator[Callable[..., Scripted]]:
    """Start servers with flags of their own; they end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serve(*arguments))


@pytest.fixture
def fake(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    """A fake NVML, compiled once per session."""
    pytest.importorskip("pynvml")
    return FakeNvml(need_library(tmp_path_factory), tmp_path)
