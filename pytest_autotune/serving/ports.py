"""A free port, reserved until the server has it."""

from __future__ import annotations

import socket


class PortReservation:
    """A port on the loopback interface that nobody gets who asks for any free port.

    The socket is bound, with address reuse, and never listens. The kernel then gives the port to
    no request for a free one. A server that sets address reuse as well, as servers do, can bind
    and listen beside it.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]

    def release(self) -> None:
        """Give the port up. May be called twice."""
        self._socket.close()
