"""A server that answers as a script says, however wrong: broken, overloaded or hostile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

#: The bytes to send for one request. Between two of them it may wait.
Script = Callable[["Hostile", str], Iterable[bytes]]


@dataclass
class Hostile:
    """A listening socket, with a thread for every connection."""

    listener: socket.socket
    script: Script
    requests: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Say no more, and stay connected until the test ends."""
        self.over.wait()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the test's end."""
        self.over.wait(seconds)

    def _accept(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while not self.over.is_set():
                request = _read_request(connection)
                if not request:
                    return
                self.requests.append(request)
                path = request.split(" ", 2)[1]
                for piece in self.script(self, path):
                    if self.over.is_set():
                        return
                    if piece is HANG_UP:
                        connection.shutdown(socket.SHUT_WR)
                        return
                    connection.sendall(piece)


#: A piece of a script: end the connection here, in the middle of whatever was being said.
HANG_UP = b"(hang up)"


def _read_request(connection: socket.socket) -> str:
    """Read a request with its body; return its head, empty at the connection's end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return ""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += connection.recv(65536)
    return head.decode("latin-1")


@contextlib.contextmanager
def hostile(script: Script) -> Iterator[Hostile]:
    """Run a server until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = Hostile(listener, script)
    threading.Thread(target=server._accept, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        # Wakes the thread that accepts.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        listener.close()


@contextlib.contextmanager
def silent(*, backlog: int = 128) -> Iterator[str]:
    """Listen on a port and accept nothing; give the address without its scheme.

    The kernel completes connections all the same, until ``backlog`` of them wait.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def full() -> Iterator[str]:
    """Listen on a port that takes no more connections, as its backlog is full."""
    with silent(backlog=0) as address, contextlib.ExitStack() as stack:
        port = int(address.rpartition(":")[2])
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.1", port))
        yield address
