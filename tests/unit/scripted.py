"""The scripted server as a subprocess, and what it can tell."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent.parent / "scripted_server.py"


@dataclass(frozen=True)
class Scripted:
    """A running server."""

    url: str

    def ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)  # noqa: S310 - our own server
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as response:
            return json.load(response)

    def stats(self) -> dict[str, Any]:
        """Return the number of requests, the most at once, and so on, since the last reset."""
        found: dict[str, Any] = self.ask("/stats")
        return found

    def reset(self) -> None:
        self.ask("/stats", "DELETE")

    def last(self) -> dict[str, Any]:
        """Return what was asked last: request line, headers, body."""
        found: dict[str, Any] = self.ask("/last-request")
        return found


@contextmanager
def serve(*arguments: str) -> Iterator[Scripted]:
    """Run a server on a free port until the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--port", "0", *arguments], stdout=subprocess.PIPE, text=True
    )
    with ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield Scripted(f"http://127.0.0.1:{line.split()[-1]}")


def refusing_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
