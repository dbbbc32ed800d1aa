"""A GET request that a broken or hostile server can neither prolong nor fill the memory with.

One deadline holds for all of it: connecting, TLS, sending, and every byte of the answer. One limit
holds for the bytes of the answer. A time-out for each read would start anew with every byte.

No redirect is followed, and no proxy of the environment is used: either would take an API key to
another host than the spec names.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pytest_autotune.serving.redirect import redirected
from pytest_autotune.text.durations import duration
from pytest_autotune.text.printable import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_OK: Final = range(200, 300)
_PIECE: Final = 1 << 16
_MAX_WORDS: Final = 200


class NoAnswer(Exception):
    """No whole answer came; ``str()`` of it goes on from "the server".

    It is ``refused`` if the connection was refused or reset, as by a server that has not started.
    """

    def __init__(self, what: str, *, refused: bool = False) -> None:
        super().__init__(what)
        self.refused = refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; ``str()`` of it goes on from "the server"."""

    status: int
    reason: str
    location: str
    body: bytes

    @property
    def ok(self) -> bool:
        """Return whether the status is one of success."""
        return self.status in _OK

    def __str__(self) -> str:
        """Say what was answered, in words that are safe to print."""
        said = f"answered {self.status} {printable(self.reason)[:_MAX_WORDS]}".rstrip()
        return ", ".join(filter(None, (said, redirected(self.status, self.location))))


def get(url: str, headers: Mapping[str, str], *, seconds: float, limit: int) -> Answer:
    """Return the whole answer to a GET request; raise :class:`NoAnswer`.

    All of it takes at most ``seconds``, but for the resolver's time to look up a host's name. The
    answer has at most ``limit`` bytes, headers included.
    """
    wire = _Wire(time.monotonic() + seconds, limit)
    try:
        split = urlsplit(url)
        secure = split.scheme == "https"
        host, port = split.hostname or "", split.port or (443 if secure else 80)
        wire.connect(host, port, secure=secure)
        with closing((HTTPSConnection if secure else HTTPConnection)(host, port)) as connection:
            connection.sock = wire
            path = (split.path or "/") + (f"?{split.query}" if split.query else "")
            connection.request("GET", path, headers={**headers, "Connection": "close"})
            return _answer(connection.getresponse())
    except TimeoutError:
        raise NoAnswer(f"{wire.state} within {duration(seconds)}") from None
    except _TooMuchError:
        raise NoAnswer(f"sent more than {limit >> 10} KiB") from None
    except IncompleteRead as error:
        missing = f", {error.expected} bytes before its end" if error.expected else ""
        raise NoAnswer(f"broke its answer off{missing}") from None
    except ConnectionError as error:
        # A published port accepts connections before the server in the container listens.
        raise NoAnswer(f"closed the connection ({error})", refused=True) from None
    except (OSError, HTTPException, ValueError) as error:
        said = printable(str(error))[:_MAX_WORDS]
        raise NoAnswer(f"failed ({type(error).__name__}: {said})") from None
    finally:
        wire.hang_up()


def _answer(response: HTTPResponse) -> Answer:
    # In pieces, as a length that the server makes up is reserved at once otherwise.
    body = b"".join(iter(lambda: response.read(_PIECE), b""))
    if response.length:
        raise IncompleteRead(body, response.length)
    return Answer(
        status=response.status,
        reason=response.reason,
        location=response.getheader("Location", ""),
        body=body,
    )


class _TooMuchError(Exception):
    """The answer has more bytes than are allowed."""


class _Wire(io.RawIOBase):
    """A socket, as far as ``http.client`` needs one, with a deadline and a limit of bytes."""

    def __init__(self, deadline: float, limit: int) -> None:
        self._deadline = deadline
        self._limit = limit
        self._received = 0
        self._socket: socket.socket | None = None
        #: How far it got, in words.
        self.state = "took no connection"

    def connect(self, host: str, port: int, *, secure: bool) -> None:
        """Connect to the first of the host's addresses that answers."""
        failure: OSError | None = None
        for kind, type_, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            self._socket = socket.socket(kind, type_, proto)
            try:
                self._in_time().connect(address)
                break
            except OSError as error:
                self._socket.close()
                failure = error
        else:
            raise failure or OSError(f"{host} has no address")
        if secure:
            self.state = "took a connection, but no TLS"
            self._socket = _tls().wrap_socket(self._in_time(), server_hostname=host)
        self.state = "gave no answer"

    def _in_time(self) -> socket.socket:
        """Return the socket, which may now wait until the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        assert self._socket is not None
        self._socket.settimeout(left)
        return self._socket

    def sendall(self, data: Any) -> None:
        """Send all of ``data``."""
        self._in_time().sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader of what the server sends."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what has come, or wait for more; return the number of bytes."""
        count = self._in_time().recv_into(buffer)
        self._received += count
        if self._received > self._limit:
            raise _TooMuchError
        if count:
            self.state = f"sent {self._received} bytes of an answer, and no end of it,"
        return count

    def close(self) -> None:
        """Do nothing: ``http.client`` closes a socket before it has read the answer from it."""

    def hang_up(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()


@cache
def _tls() -> ssl.SSLContext:
    """Return what certificates are checked by; reading them takes some time."""
    return ssl.create_default_context()
