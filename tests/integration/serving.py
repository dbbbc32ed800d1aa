"""A project whose trials each have an inference server, and what its tests say of it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project import Study

SCRIPTED = Path(__file__).parent.parent / "scripted_server.py"
MODULE = """
import pytest

pytestmark = pytest.mark.autotune("served")


def test_answers(trial, inference_server):
    print("command:", inference_server.command)


def test_holds(trial, inference_server, load_test):
    trial.report(load_test(inference_server, race=False))
"""
SPEC: Mapping[str, Any] = {
    "parameters": {"ttft": [0.01, 0.02]},
    "optimization": {"objective": "minimize_ttft", "strategy": "grid_search"},
    "benchmark": {
        "traffic_scenarios": ["D(8,4)"],
        "num_concurrency": [1, 4],
        "max_requests_per_iteration": 12,
        "warmup_requests": 1,
    },
}


def process(*arguments: str, **keys: Any) -> dict[str, Any]:
    """Return a server block that runs the scripted server as a process."""
    # Tokens one by one, as what arrives in one piece shows no TTFT.
    command = [sys.executable, str(SCRIPTED), "--port", "{port}", "--itl", "0.005", *arguments]
    return {"command": command, "startup_timeout": 20, **keys}


#: Other tests, and other people, use the processors meanwhile. What that does is tested elsewhere.
QUIET = """
from pathlib import Path
from pytest_autotune.bench import machine

machine._STAT = Path("/no/such/file")
"""


@dataclass(frozen=True)
class Serving(Study):
    """A folder with a study of servers, on a quiet machine."""

    def write(self, server: Mapping[str, Any], module: str = MODULE, **keys: Any) -> None:
        (self.path / "conftest.py").write_text(QUIET)
        spec = {**SPEC, "server": server, **keys}
        (self.path / "autotune.json").write_text(json.dumps({"served": spec}))
        (self.path / "test_served.py").write_text(textwrap.dedent(module))

    def column(self, key: str) -> int:
        """Return where a key stands in the spec file, which is one line."""
        return (self.path / "autotune.json").read_text().index(f'"{key}":') + 1

    def watch(self) -> None:
        """Let runs see what else uses the processors."""
        (self.path / "conftest.py").unlink()

    def logs(self) -> str:
        """Return the logs of all servers."""
        folder = self.path / ".pytest_cache" / "autotune" / "logs"
        return "\n".join(path.read_text() for path in sorted(folder.rglob("server.log")))


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``holds`` does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Return whether a process runs, and is no zombie."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
