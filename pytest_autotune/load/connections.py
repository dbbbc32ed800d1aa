"""The keep-alive connections that a load test has to its server."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from urllib.parse import urlsplit

from pytest_autotune.load.connection import Connection


class Connections:
    """Keep-alive connections to one server."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        self._host = split.hostname or "127.0.0.1"
        self._ssl = ssl.create_default_context() if split.scheme == "https" else None
        self._port = split.port or (443 if self._ssl else 80)
        self._idle: deque[Connection] = deque()

    def idle(self) -> Connection | None:
        """Return an idle connection, None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> Connection:
        """Return a new connection; raise OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._host, self._port, ssl=self._ssl
        )
        return connection

    def __len__(self) -> int:
        """Return the number of idle connections."""
        return len(self._idle)

    def give(self, connection: Connection) -> None:
        """Put a connection back."""
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()
