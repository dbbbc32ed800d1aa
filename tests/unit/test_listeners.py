"""The processes that listen on an address, and their use of the processors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import refusing_port, serve

from pytest_autotune.system import listeners
from pytest_autotune.system.listeners import is_local, listener_seconds

#: Listens, uses 0.3 s of a processor, says where it listens, and waits to be killed.
_LISTENER = """
import os, socket, time
with socket.create_server(("127.0.0.1", 0)) as server:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    print(os.getpid(), server.getsockname()[1], flush=True)
    os.close(1)
    time.sleep(60)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000", True),
        ("https://localhost", True),
        ("http://[::1]:8000/v1", None),
        ("http://192.0.2.1:8000", False),
        ("http://no-such-host.invalid", False),
    ],
)
def test_an_address_is_local_if_it_can_be_bound(url: str, *, local: bool | None) -> None:
    assert is_local(url) in {local, True} if local is None else is_local(url) is local


def test_a_stranger_that_listens_is_known_by_its_time() -> None:
    # The shell ends at once, so that the listener is nobody's child here.
    script = f"{sys.executable} -c '{_LISTENER}' &".replace('"', '\\"').replace('\\"', '"')
    found = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True, timeout=30
    )
    pid, port = map(int, found.stdout.split())
    try:
        seconds = listener_seconds(f"http://127.0.0.1:{port}/v1")
        assert seconds is not None
        assert seconds >= 0.25
    finally:
        os.kill(pid, signal.SIGKILL)


def test_children_of_ours_are_not_counted_again() -> None:
    with serve() as server:
        assert listener_seconds(server.url) == 0.0


def test_nobody_is_found_where_nobody_listens_and_elsewhere_nothing_is_used() -> None:
    assert listener_seconds(f"http://127.0.0.1:{refusing_port()}") is None
    assert listener_seconds("http://192.0.2.1:8000") == 0.0


def test_whoever_only_forwards_is_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server:
        monkeypatch.setattr(listeners, "_FORWARDS", Path(sys.executable).name)
        assert listener_seconds(server.url) is None


@pytest.mark.parametrize("host", ["10.9.8.7", "172.18.0.200", "192.168.77.6", "[fd00::77]"])
def test_a_private_address_may_be_of_a_container_here(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever networks this machine is in.
    monkeypatch.setattr(listeners, "is_local", lambda url: False)
    assert listener_seconds(f"http://{host}:8000") is None
    assert listener_seconds("http://172.32.0.1:8000") == 0.0


def test_who_has_used_no_time_is_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_listeners", lambda port: iter([1]))
    monkeypatch.setattr(listeners, "cpu_seconds", lambda *pids: 0.0)
    assert listener_seconds("http://127.0.0.1:8000") is None
