"""A streaming HTTP/1.1 client connection on plain asyncio, as thin as it can be.

General clients cost too much here: at 64 streams on two cores, httpx delivered a twentieth of
the requests and reported first tokens seconds late. So bytes are read as they arrive, time is
taken at once, and only what an OpenAI-compatible server sends is understood: chunked or counted
bodies, and server-sent events.

A server may be broken or hostile, so everything that is kept has a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from pytest_autotune.load.answers import (
    event_document,
    has_output,
    is_text,
    length,
    line_end,
    said,
    said_in,
    token_count,
)
from pytest_autotune.serving.redirect import redirected
from pytest_autotune.text.durations import duration
from pytest_autotune.text.printable import printable

_MAX_HEAD: Final = 65536
#: An answer that is no stream is read for what it says of an error.
_MAX_BODY: Final = 65536
#: An event carries a few tokens with their probabilities, or a whole answer's text at its end.
_MAX_EVENT: Final = 1 << 20
#: More than the context of any model; each takes 32 bytes here.
_MAX_PIECES: Final = 1 << 18
_MAX_DETAIL: Final = 500
_OK: Final = 200
#: No Content, Not Modified: their answers have no body.
_BODILESS: Final = (204, 304)
_DONE: Final = b"[DONE]"
#: Errors that an answer without sense can raise while it is read.
_NONSENSE: Final = (
    AttributeError, IndexError, KeyError, RecursionError, TypeError,
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
            self.detail = printable(" ".join(detail[:_MAX_DETAIL].split()))


class _EnoughError(Exception):
    """An answer that is no stream goes on beyond what is read of it."""


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.usable = False
        self.used = False
        self._exchange: Exchange | None = None
        self._held = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._rest = b""
        self._read: Callable[[bytes, int, float], int] = self._read_head
        self._left = 0
        self._status = 0
        self._stream = False
        self._keep = True
        self._location = ""
        #: The body so far, or the event that has not ended.
        self._held.clear()
        #: Whether the last character of the body was half of a line's end.
        self._half = False

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

    def expire(self, seconds: float) -> None:
        """End the running exchange, as the ``seconds`` that it had are over."""
        exchange = self._exchange
        came = "nothing came"
        if exchange is not None and exchange.stamps:
            came = f"{len(exchange.stamps)} pieces of text came, and no end,"
        elif exchange is not None and exchange.started:
            came = "no text came"
            if self._read == self._read_head:
                came = "no whole header came"
        self.abort("timeout", f"no answer in time: {came} within {duration(seconds)}")

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
        except _EnoughError:
            self._keep = False
            self._complete()
        except ValueError as error:
            self.abort("bad response", str(error))
        except _NONSENSE as error:
            what = f"{type(error).__name__}: {error}"
            self.abort("bad response", f"an event that is not of the API's form ({what})")

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
        if not (version.startswith("HTTP/1.") and len(code) == 3 and code.isdigit()):  # noqa: PLR2004 - as a status has
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
        self._location = headers.get("location", "")
        self._refuse_compressed(headers.get("content-encoding", ""))
        counted = "0" if self._status in _BODILESS else headers.get("content-length")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._read = self._read_chunk_size
        elif counted is not None:
            self._left = length(counted.encode(), 10)
            self._read = self._read_counted
            if self._left == 0:
                self._complete()
        else:
            self._keep = False
            self._read = self._read_to_end
        return end + 4

    def _refuse_compressed(self, encoding: str) -> None:
        """Fail on a compressed answer: nobody asked for it, and it hides when text came."""
        if not encoding or encoding.lower() == "identity":
            return
        if self._status == _OK:
            raise ValueError(f"the answer is compressed ({encoding}), which was not asked for")
        assert self._exchange is not None
        self._exchange.fail(f"HTTP {self._status}", f"said in a compressed body ({encoding})")

    def _read_chunk_size(self, data: bytes, at: int, _now: float) -> int:
        end = line_end(data, at)
        if end < 0:
            return -1
        self._left = length(data[at:end].split(b";", 1)[0], 16)
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
        end = line_end(data, at)
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
            self._held += data
            if len(self._held) > _MAX_BODY:
                raise _EnoughError
            return
        if self._half or b"\r" in data:
            data = self._with_plain_ends(data)
        if self._held:
            # An event may come byte by byte, so only what is new is searched for its end.
            new = len(self._held) - 1
            self._held += data
            if self._held.find(b"\n\n", new) < 0:
                self._check_event()
                return
            data = bytes(self._held)
            self._held.clear()
        *events, rest = data.split(b"\n\n")
        for event in events:
            self._event(event, now)
        if rest:
            self._held += rest
            self._check_event()

    def _with_plain_ends(self, data: bytes) -> bytes:
        r"""Return ``data`` with ``\n`` for every end of a line, which may be cut in its middle."""
        if self._half:
            data = b"\r" + data
        self._half = data.endswith(b"\r")
        return data[: len(data) - self._half].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check_event(self) -> None:
        if len(self._held) > _MAX_EVENT:
            raise ValueError(f"an event of more than {_MAX_EVENT >> 10} KiB")

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
        document = event_document(text)
        if document.get("error"):
            exchange.fail("server error", said(document))
            return
        usage = document.get("usage")
        if usage:
            exchange.input_tokens = token_count(usage.get("prompt_tokens"))
            exchange.output_tokens = token_count(usage.get("completion_tokens"))
        choices = document.get("choices")
        if not choices:
            return
        choice = choices[0]
        if choice.get("finish_reason"):
            exchange.finished = True
        words = choice.get("text")
        if is_text(words) if words else has_output(choice.get("delta")):
            if len(exchange.stamps) == _MAX_PIECES:
                raise ValueError(f"a stream of more than {_MAX_PIECES} pieces of text")
            exchange.stamps.append(now)

    # The end of an exchange

    def _complete(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._status != _OK:
            redirect = redirected(self._status, self._location)
            exchange.fail(f"HTTP {self._status}", redirect or said_in(bytes(self._held)))
        elif not self._stream:
            exchange.fail("not a stream", said_in(bytes(self._held)))
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
