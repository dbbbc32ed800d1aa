"""A streaming HTTP/1.1 client connection on plain asyncio, as thin as it can be.

General clients cost too much here: at 64 streams on two cores, httpx delivered a twentieth of
the requests and reported first tokens seconds late. So bytes are read as they arrive, time is
taken at once, and only what an OpenAI-compatible server sends is understood: chunked or counted
bodies, and server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

_MAX_HEAD: Final = 65536
_MAX_DETAIL: Final = 500
_OK: Final = 200
_DONE: Final = b"[DONE]"
_TITLE: Final = re.compile(r"<title>([^<]+)</title>", re.IGNORECASE)
#: Errors that an answer without sense can raise while it is read.
_NONSENSE: Final = (
    AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its outcome. All times are on the monotonic clock, in seconds.

    ``stamps`` are the arrival times of events that carried text; ``error`` is a class of error
    (``""`` for none) and ``detail`` the server's words on it.
    """

    scheduled: float
    done: asyncio.Future[None]
    sent: float = 0.0
    stamps: list[float] = field(default_factory=list)
    error: str = ""
    detail: str = ""
    started: bool = False
    finished: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None

    def fail(self, error: str, detail: str = "") -> None:
        """Note the first thing that went wrong."""
        if not self.error:
            self.error = error
            self.detail = detail[:_MAX_DETAIL]


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.usable = False
        self.used = False
        self._exchange: Exchange | None = None
        self._reset()

    def _reset(self) -> None:
        self._rest = b""
        self._read: Callable[[bytes, int, float], int] = self._read_head
        self._left = 0
        self._status = 0
        self._stream = False
        self._keep = True
        self._body = b""

    # Called by the load loop

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Begin an exchange; its ``done`` is set when it is over, well or not."""
        assert self.transport is not None
        self._reset()
        self._exchange = exchange
        exchange.sent = perf_counter()
        self.transport.write(data)

    def abort(self, error: str, detail: str = "") -> None:
        """End the running exchange as failed, and with it the connection."""
        if self._exchange is not None:
            self._exchange.fail(error, detail)
        self._over(keep=False)

    def close(self) -> None:
        """Close the connection."""
        self.usable = False
        if self.transport is not None:
            self.transport.abort()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport over."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: well if its answer ends with the connection, otherwise as a failure."""
        self.usable = False
        if self._exchange is None:
            return
        if self._read == self._read_to_end and exc is None:
            self._keep = False
            self._complete()
        elif not self._exchange.started and self.used:
            # The server gave up an idle connection just as it was used again.
            self.abort("stale")
        else:
            self.abort("disconnected", str(exc or "the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Take the time, then read the data."""
        now = perf_counter()
        exchange = self._exchange
        if exchange is None:
            self.close()
            return
        exchange.started = True
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        try:
            while at < len(data) and self._exchange is exchange:
                step = self._read(data, at, now)
                if step < 0:
                    self._rest = data[at:]
                    return
                at = step
        except _NONSENSE as error:
            self.abort("bad response", f"{type(error).__name__}: {error}")

    # Readers: each takes what it can from ``data`` at ``at`` and returns how far it got,
    # or -1 if it needs more.

    def _read_head(self, data: bytes, at: int, _now: float) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            if len(data) - at > _MAX_HEAD:
                raise ValueError("the header of the answer has no end")
            return -1
        status, *lines = data[at:end].decode("latin-1").split("\r\n")
        version, code, *_ = status.split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not HTTP/1: {status[:60]!r}")
        self._status = int(code)
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if 100 <= self._status < 200:  # noqa: PLR2004 - interim answers
            return end + 4
        connection = headers.get("connection", "").lower()
        self._keep = "close" not in connection and (
            version != "HTTP/1.0" or "keep-alive" in connection
        )
        self._stream = (
            self._status == _OK and "event-stream" in headers.get("content-type", "").lower()
        )
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._read = self._read_chunk_size
        elif "content-length" in headers:
            self._left = _size(headers["content-length"].encode(), 10)
            self._read = self._read_counted
            if self._left == 0:
                self._complete()
        else:
            self._keep = False
            self._read = self._read_to_end
        return end + 4

    def _read_chunk_size(self, data: bytes, at: int, _now: float) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1
        self._left = _size(data[at:end].split(b";", 1)[0], 16)
        self._read = self._read_chunk if self._left else self._read_trailer
        return end + 2

    def _read_chunk(self, data: bytes, at: int, now: float) -> int:
        end = min(at + self._left, len(data))
        self._left -= end - at
        if self._left == 0:
            self._read = self._read_chunk_end
        self._take(data[at:end], now)
        return end

    def _read_chunk_end(self, data: bytes, at: int, _now: float) -> int:
        if len(data) - at < 2:  # noqa: PLR2004 - the line's end
            return -1
        if data[at : at + 2] != b"\r\n":
            raise ValueError("a chunk is longer than it says")
        self._read = self._read_chunk_size
        return at + 2

    def _read_trailer(self, data: bytes, at: int, _now: float) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1
        if end == at:
            self._complete()
        return end + 2

    def _read_counted(self, data: bytes, at: int, now: float) -> int:
        end = min(at + self._left, len(data))
        self._left -= end - at
        self._take(data[at:end], now)
        if self._left == 0:
            self._complete()
        return end

    def _read_to_end(self, data: bytes, at: int, now: float) -> int:
        self._take(data[at:], now)
        return len(data)

    # Server-sent events

    def _take(self, data: bytes, now: float) -> None:
        if not self._stream:
            self._body += data
            return
        if self._body:
            data = self._body + data
            self._body = b""
        if b"\r" in data:
            # A line may end in the middle of its two characters.
            tail = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(tail)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            data += tail
        *events, self._body = data.split(b"\n\n")
        for event in events:
            self._event(event, now)

    def _event(self, event: bytes, now: float) -> None:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            return
        text = lines[0] if len(lines) == 1 else b"\n".join(lines)
        exchange = self._exchange
        assert exchange is not None
        if text == _DONE:
            exchange.finished = True
            return
        document = json.loads(text)
        if document.get("error"):
            exchange.fail("server error", _said(document))
            return
        usage = document.get("usage")
        if usage:
            exchange.input_tokens = _count(usage.get("prompt_tokens"))
            exchange.output_tokens = _count(usage.get("completion_tokens"))
        choices = document.get("choices")
        if not choices:
            return
        choice = choices[0]
        if choice.get("finish_reason"):
            exchange.finished = True
        if choice.get("text") or _delta(choice.get("delta")):
            exchange.stamps.append(now)

    # The end of an exchange

    def _complete(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._status != _OK:
            exchange.fail(f"HTTP {self._status}", _said_in(self._body))
        elif not self._stream:
            exchange.fail("not a stream", _said_in(self._body))
        elif not exchange.finished:
            exchange.fail("truncated", "the stream ended without a finish reason")
        elif not exchange.stamps:
            exchange.fail("empty", "the answer has no text")
        self._over(keep=self._keep)

    def _over(self, *, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        self.used = True
        if not keep:
            self.close()
        if exchange is not None and not exchange.done.done():
            exchange.done.set_result(None)


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


def _size(text: bytes, base: int) -> int:
    """Return a length; raise ValueError for anything else, a negative number included."""
    size = int(text, base)
    if size < 0:
        raise ValueError(f"a length of {size}")
    return size


def _count(value: Any) -> int | None:
    """Return a number of tokens, None for anything else."""
    return value if isinstance(value, int) and value >= 0 else None


def _delta(delta: Any) -> bool:
    """Return whether a chat chunk carries output: text, reasoning or a tool call."""
    return bool(delta) and bool(
        delta.get("content")
        or delta.get("reasoning_content")
        or delta.get("reasoning")
        or delta.get("tool_calls")
    )


def _said(document: Mapping[str, Any]) -> str:
    error = document.get("error") or document
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return message if isinstance(message, str) else json.dumps(message)


def _said_in(body: bytes) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        # Of a proxy's page the title says it.
        title = _TITLE.search(text) if text.startswith("<") else None
        return text if title is None else title[1].strip()
    return _said(document) if isinstance(document, Mapping) else str(document)
