"""What a launch becomes for a local process, and what is made of how it ended."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_autotune.errors import LaunchError
from pytest_autotune.serving import process
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.serving.logs import LogFile
from pytest_autotune.serving.process import ProcessServer
from pytest_autotune.spec.loading import load_inline


def launch(**server: Any) -> Launch:
    document = {"parameters": {"a": [1]}, "server": {"command": ["{python}"], **server}}
    spec = load_inline("x", document, "test")
    assert spec.server is not None
    return make_launch(spec.server, {"a": 1}, spec.layout)


@pytest.mark.parametrize(
    ("visible", "wanted", "seen"),
    [
        (None, None, None),
        ("4,5", None, "4,5"),
        ("4,5", "none", ""),
        ("4,5", 0, ""),
        ("4,5", ["GPU-1", "GPU-2"], "GPU-1,GPU-2"),
        ("4,5,6", 2, "4,5"),
        (None, 2, "0,1"),
        ("", 2, ""),
        ("4,-1,5", 2, "4"),
    ],
)
def test_a_server_sees_the_gpus_it_is_to_have(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: Any, seen: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    keys = {} if wanted is None else {"gpus": wanted}
    assert process._environment(launch(**keys)).get("CUDA_VISIBLE_DEVICES") == seen


def test_its_environment_is_ours_with_the_specs_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("GONE", "gone")
    environment = process._environment(launch(environment={"GONE": None, "NEW": "a-{a}"}))
    assert environment["KEPT"] == "kept"
    assert environment["NEW"] == "a-1"
    assert "GONE" not in environment
    assert "PYTEST_CURRENT_TEST" not in environment


@pytest.mark.parametrize(
    ("killed", "number", "out_of_memory"),
    [(1, signal.SIGKILL, True), (0, signal.SIGKILL, False), (1, signal.SIGTERM, False)],
)
def test_a_kill_is_for_memory_if_the_kernel_counted_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    killed: int,
    number: int,
    *,
    out_of_memory: bool,
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("nr_free_pages 1\noom_kill 7\n")
    monkeypatch.setattr(process, "_VMSTAT", counter)
    # Waits until the counter is what it is to be, then ends itself by the signal.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = "import os, sys; open(sys.argv[1]).read(); os.kill(os.getpid(), int(sys.argv[2]))"
    log = LogFile(tmp_path / "log", str)
    server = ProcessServer(
        launch(command=["{python}", "-c", script, str(gate), str(int(number))]),
        log,
    )
    try:
        counter.write_text(f"nr_free_pages 1\noom_kill {7 + killed}\n")
        gate.write_text("go")
        while (ended := server.exited()) is None:
            pass
        assert ended.status == -number
        assert ended.out_of_memory is out_of_memory
    finally:
        server.stop()
        log.close()


def test_the_last_words_of_a_server_are_logged_before_its_end_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # On a busy machine the thread that logs may come to nothing for a long time.
    goes_on = threading.Event()
    monkeypatch.setattr(ProcessServer, "_take_all", lambda _: goes_on.wait(10.0))
    log = LogFile(tmp_path / "log", str)
    server = ProcessServer(launch(command=["{python}", "-c", "exit('last words')"]), log)
    try:
        while (ended := server.exited()) is None:
            pass
        assert ended.status == 1
        assert log.tail() == "last words"
    finally:
        goes_on.set()
        server.stop()
        log.close()


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({}, False),
        ({"arguments": {"port": 8000}}, False),
        ({"command": ["{python}", "--port={port}"]}, True),
        ({"arguments": {"port": "{port}"}}, True),
        ({"environment": {"PORT": "{port}"}}, True),
        ({"command": ["{python}", "{flags}"], "environment": {"PORT": "${port}"}}, False),
    ],
)
def test_a_command_that_is_not_told_its_port_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    server: dict[str, Any],
    told: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv("port", "1")
    found = launch(**server)
    if told:
        process.check_command(found)
        everything = (*found.command("h", 1234), *process._environment(found, 1234).values())
        assert any("1234" in text for text in everything)
    else:
        with pytest.raises(LaunchError, match=r"^test: /server/command: \{port\} appears nowhere"):
            process.check_command(found)
