"""HTTP/1.1, as much of it as clients of the OpenAI API use: keep-alive and chunked responses."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Handler: TypeAlias = "Callable[[Request, Connection], Awaitable[None]]"

MAX_HEAD, MAX_BODY = 2**16, 2**24


class HTTPError(Exception):
    """What a request is answered with if it cannot be served."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that has been read to its end."""

    method: str
    path: str
    body: bytes


class Server:
    """Connections, and a handler for the requests that come in on them."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listener: asyncio.Server | None = None
        # The event loop itself does not keep tasks from being collected.
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Accept connections from now on; return the port."""
        # asyncio sets SO_REUSEADDR on the listening socket and TCP_NODELAY on every connection.
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, host, port)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """End all connections, in whatever state they are."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_Reader(limit=MAX_HEAD), self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        task = asyncio.create_task(Connection(reader, writer).serve(self._handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Connection:
    """One client: its requests in turn, and the responses to them."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._keep_alive = True

    async def serve(self, handler: Handler) -> None:
        """Answer requests until the client or a mistake of its ends the connection."""
        try:
            while self._keep_alive:
                try:
                    if request := await self._read():
                        await handler(request, self)
                except HTTPError as error:
                    await self.fail(error)
        except (asyncio.CancelledError, ConnectionError):
            self._writer.transport.abort()
        finally:
            self._writer.close()

    async def respond(self, document: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send a JSON document."""
        body = json.dumps(document).encode()
        length = f"Content-Length: {len(body)}"
        self._writer.write(self._head(status, "application/json", length) + body)
        await self._writer.drain()

    async def fail(self, error: HTTPError) -> None:
        """Send an error, the way that OpenAI does."""
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        content = {"message": str(error), "type": kind, "param": None, "code": error.status}
        await self.respond({"error": content}, error.status)

    async def begin_events(self) -> None:
        """Begin a response of server-sent events."""
        framing = "Transfer-Encoding: chunked"
        self._writer.write(self._head(HTTPStatus.OK, "text/event-stream", framing))
        await self._writer.drain()

    async def send_event(self, data: str) -> None:
        """Send one event."""
        event = f"data: {data}\n\n".encode()
        self._writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await self._writer.drain()

    async def end_events(self) -> None:
        """End the response, so that the connection can be used again."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    @contextmanager
    def cancelled_with_client(self) -> Iterator[None]:
        """Cancel the current task if the client goes away in the meantime."""
        task = asyncio.current_task()
        assert task is not None
        if self._reader.gone:
            raise ConnectionResetError
        self._reader.on_gone = task.cancel
        try:
            yield
        finally:
            self._reader.on_gone = None

    async def _read(self) -> Request | None:
        # If it cannot be read to its end, where the next one would begin is anyone's guess.
        self._keep_alive = False
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError as error:
            raise HTTPError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large"
            ) from error
        start, *lines = head.decode("latin-1").strip().split("\r\n")
        try:
            method, target, version = start.split(" ")
            headers = {
                name.lower(): value.strip()
                for name, value in (line.split(":", 1) for line in lines)
            }
            length = int(headers.get("content-length", "0"))
        except ValueError as error:
            raise HTTPError(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1") from error
        if version != "HTTP/1.1":
            raise HTTPError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1")
        if "transfer-encoding" in headers:
            raise HTTPError(HTTPStatus.LENGTH_REQUIRED, "Chunked requests are not supported")
        if not 0 <= length <= MAX_BODY:
            raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The limit is {MAX_BODY} bytes")
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return None
        self._keep_alive = headers.get("connection", "").lower() != "close"
        return Request(method=method, path=target.partition("?")[0], body=body)

    def _head(self, status: HTTPStatus, content_type: str, framing: str) -> bytes:
        return (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Connection: {'keep-alive' if self._keep_alive else 'close'}\r\n"
            f"{framing}\r\n\r\n"
        ).encode()


class _Reader(asyncio.StreamReader):
    """A stream that says when the other side has closed it, without having to be read.

    A client that only closes its own direction, and would still listen, counts as gone.
    """

    gone = False
    on_gone: Callable[[], object] | None = None

    def feed_eof(self) -> None:
        super().feed_eof()
        self._leave()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._leave()

    def _leave(self) -> None:
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()
